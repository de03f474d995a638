/*
 * State tables against a list: random sets and removals, gathers and loads. What is gathered and
 * loaded elsewhere gives the same table with the same digest, and the digest that is kept up to
 * date equals the one recomputed over everything.
 */
#include "runtime/state.h"

#include "runtime/keys.h"
#include "tests/unit/test_rt_functions.h"

#define KEYS 700u

struct model {
    uint8_t value[KEYS][200];
    size_t len[KEYS];
    int64_t touch[KEYS];
    bool there[KEYS], dirty[KEYS];
};

static levee_stream node = {.table = 0x1234};
static struct rt_table table;
static struct model *model;

static void setup(void)
{
    rt_table_init(&table, &node);
    model = calloc(1, sizeof *model);
    MUST(model != NULL);
}

static void teardown(void)
{
    rt_table_release(&table);
    free(model);
}

/* Keys of 0, 1 … 60 bytes: inside the entry and outside. */
static struct levee_slice key_of(uint32_t i, char buf[80])
{
    int n = snprintf(buf, 80, "%u%.*s", i, (int)(i % 61),
                     "------------------------------"
                     "------------------------------");
    return i == 0 ? slice_of("", 0) : slice_of(buf, (size_t)n);
}

static struct rt_entry *find(struct rt_table *t, struct levee_slice key)
{
    return rt_table_find(t, hash_key(key.data, key.len), key, rt_key_head(key));
}

static bool set(struct rt_table *t, struct levee_slice key, struct levee_slice value, int64_t now)
{
    uint64_t hash = hash_key(key.data, key.len);
    struct rt_entry *e = find(t, key);

    return e ? rt_table_put(t, hash, e, value, now)
             : rt_table_add(t, hash, key, value, now) != NULL;
}

static void change(uint64_t *rng, int64_t now)
{
    char buf[80];
    uint32_t i = (uint32_t)(rng_next(rng) % KEYS);
    struct levee_slice key = key_of(i, buf);
    struct rt_entry *e = find(&table, key);

    MUST((e && e->present) == model->there[i]);
    if (rng_next(rng) % 4 == 0) {
        if (model->there[i]) {
            MUST(rt_table_remove(&table, hash_key(key.data, key.len), e));
            model->there[i] = false;
            model->dirty[i] = true;
        }
        return;
    }
    if (model->there[i] && rng_next(rng) % 5 == 0) {
        MUST(rt_table_touch(&table, hash_key(key.data, key.len), e, now));
        model->touch[i] = now;
        model->dirty[i] = true;
        return;
    }
    size_t len = rng_next(rng) % 3 ? rng_next(rng) % 24 : rng_next(rng) % 200;
    for (size_t k = 0; k < len; k++) {
        model->value[i][k] = (uint8_t)rng_next(rng);
    }
    model->len[i] = len;
    model->touch[i] = now;
    model->there[i] = model->dirty[i] = true;
    MUST(set(&table, key, slice_of(model->value[i], len), now));
}

/* When the first key of every group times out. */
static void compare_due(const struct rt_table *t)
{
    int64_t due[RT_KEY_GROUPS];
    char buf[80];

    for (uint32_t g = 0; g < RT_KEY_GROUPS; g++) {
        due[g] = INT64_MAX;
    }
    for (uint32_t i = 0; t->idle_ms && i < KEYS; i++) {
        struct levee_slice key = key_of(i, buf);
        int64_t *d = &due[hash_key(key.data, key.len) >> 57];
        int64_t own = model->touch[i] ? model->touch[i] + t->idle_ms + 1 : 0;
        *d = model->there[i] && own < *d ? own : *d;
    }
    for (uint32_t g = 0; g < RT_KEY_GROUPS; g++) {
        MUST(rt_table_due(t, g) == due[g]);
    }
}

static void compare(struct rt_table *t)
{
    char buf[80];
    uint64_t keys = 0, bytes = 0, there = 0;

    for (uint32_t i = 0; i < KEYS; i++) {
        const struct rt_entry *e = find(t, key_of(i, buf));
        there += model->there[i];
        if (!model->there[i]) {
            MUST(!e || !e->present);
            continue;
        }
        MUST(e && e->present && e->touch_ms == model->touch[i]);
        MUST(slice_eq(rt_entry_key(e), key_of(i, buf)));
        MUST(slice_eq(rt_entry_value(e), slice_of(model->value[i], model->len[i])));
    }
    rt_table_size(t, &keys, &bytes);
    MUST(keys == there);
    compare_due(t);
    MUST(bytes >= there * sizeof(struct rt_entry));
}

/* Takes a gather apart: exactly the dirty keys, by group, as they are now; then loads it. */
static void load_gather(const struct ckpt_slices *s, struct rt_table *to)
{
    uint64_t seen = 0, dirty = 0;
    uint32_t group = 0;

    for (size_t i = 0; i < s->mark_count; i++) {
        struct ckpt_slice_cursor c;
        struct ckpt_entry e;
        struct levee_slice bytes = slice_of(s->bytes.data + s->marks[i].offset, s->marks[i].len);
        MUST(ckpt_slice_open(bytes, s->table, (uint32_t)i, &c, NULL) == LEVEE_OK);
        while (ckpt_slice_next(&c, &e)) {
            uint32_t k = 0;
            for (size_t d = 0; d < e.key.len && e.key.data[d] != '-'; d++) {
                k = k * 10 + (uint32_t)(e.key.data[d] - '0');
            }
            MUST(k < KEYS && model->dirty[k]);
            MUST((e.value.data != NULL) == model->there[k]);
            MUST(e.group == rt_group_of(e.hash) && e.group >= group);
            group = e.group;
            MUST(rt_table_load(to, &e, NULL) == LEVEE_OK);
            seen++;
        }
        MUST(ckpt_slice_close(&c, NULL) == LEVEE_OK);
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        dirty += model->dirty[k];
        model->dirty[k] = false;
    }
    MUST(seen == dirty && s->entries == dirty);
}

START_TEST(a_table_equals_a_list_and_what_is_gathered_restores_it)
{
    struct rt_table copy;
    uint64_t rng = (uint64_t)_i + 1;
    bool equal_when_gathered = true;

    rt_table_init(&copy, &node);
    table.idle_ms = copy.idle_ms = _i % 2 ? 5 : 0;
    for (int round = 0; round < 25; round++) {
        struct ckpt_slices s;
        for (uint64_t n = rng_next(&rng) % 600; n > 0; n--) {
            change(&rng, round);
        }
        compare(&table);
        MUST(rt_table_gather(&table, &s, NULL) == LEVEE_OK);
        load_gather(&s, &copy);
        MUST(rt_table_loaded(&copy, NULL) == LEVEE_OK);
        ckpt_slices_release(&s);
        compare(&table);
        compare(&copy);
        MUST(table.digest == rt_table_digest_now(&table));
        MUST(copy.digest == rt_table_digest_now(&copy));
        equal_when_gathered = equal_when_gathered && table.digest == copy.digest;
    }
    ck_assert(equal_when_gathered);
    ck_assert_uint_ne(table.digest, 0);
    rt_table_release(&copy);
}
END_TEST

/* The digest covers keys, values, times and the table's identity, and is not moved by history. */
START_TEST(a_digest_tells_tables_apart)
{
    struct rt_table t[6];
    static levee_stream other = {.table = 0x1235};
    struct levee_slice k = slice_str("key"), v = slice_str("value");
    struct ckpt_slices s;
    char buf[80];

    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        rt_table_init(&t[i], i == 5 ? &other : &node);
    }
    for (uint32_t i = 1; i < 100; i++) { /* a history that leaves no trace */
        MUST(set(&t[1], key_of(i, buf), v, 1));
    }
    for (uint32_t i = 1; i < 100; i++) {
        struct levee_slice key = key_of(i, buf);
        MUST(rt_table_remove(&t[1], hash_key(key.data, key.len), find(&t[1], key)));
    }
    MUST(set(&t[0], k, v, 7) && set(&t[1], k, slice_str("other"), 7) && set(&t[1], k, v, 7));
    MUST(set(&t[2], k, slice_str("valuf"), 7) && set(&t[3], slice_str("kez"), v, 7));
    MUST(set(&t[4], k, v, 8) && set(&t[5], k, v, 7));
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        MUST(rt_table_gather(&t[i], &s, NULL) == LEVEE_OK);
        ckpt_slices_release(&s);
        ck_assert_uint_eq(t[i].digest, rt_table_digest_now(&t[i]));
        if (i == 1) {
            ck_assert_uint_eq(t[i].digest, t[0].digest);
        } else if (i > 1) {
            ck_assert_uint_ne(t[i].digest, t[0].digest);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        rt_table_release(&t[i]);
    }
}
END_TEST

/* A thousand keys that come and go use the places of ten. */
START_TEST(places_of_removed_keys_are_used_again)
{
    struct ckpt_slices s;
    char buf[80];
    uint64_t keys = 0, bytes = 0, most = 0;

    for (uint32_t round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < 10; i++) {
            MUST(set(&table, key_of(1 + round * 7 % 690 + i, buf), slice_str("x"), 1));
        }
        for (uint32_t i = 0; i < 10; i++) {
            struct levee_slice key = key_of(1 + round * 7 % 690 + i, buf);
            MUST(rt_table_remove(&table, hash_key(key.data, key.len), find(&table, key)));
        }
        MUST(rt_table_gather(&table, &s, NULL) == LEVEE_OK);
        ck_assert_uint_eq(s.entries, 10);
        ckpt_slices_release(&s);
        ck_assert_ptr_null(find(&table, key_of(1 + round * 7 % 690, buf)));
    }
    for (size_t g = 0; g < RT_KEY_GROUPS; g++) {
        most = table.groups[g].count > most ? table.groups[g].count : most;
    }
    ck_assert_uint_lt(most, 10);
    rt_table_size(&table, &keys, &bytes);
    ck_assert_uint_eq(keys, 0);
    ck_assert_uint_eq(table.digest, 0);
}
END_TEST

START_TEST(bytes_are_counted_exactly)
{
    struct ckpt_slices s;
    struct levee_slice key = slice_str("a key of more than sixteen bytes");
    uint64_t keys = 0, bytes = 0, larger = 0, again = 0, after = 0;
    uint8_t value[300] = {0};

    MUST(set(&table, key, slice_of(value, 8), 0));
    rt_table_size(&table, &keys, &bytes);
    ck_assert_uint_eq(keys, 1);
    /* 8 entries and 4 dirty marks at least, 8 slots or more, 64 bytes for the key. */
    const struct rt_state_group *g = &table.groups[rt_group_of(hash_key(key.data, key.len))];
    ck_assert_uint_eq(bytes, g->cap * 64u + (g->map.mask + 1u) * sizeof(struct map_slot) +
                                 4u * g->dirty_cap + 64u);
    MUST(set(&table, key, slice_of(value, 300), 0));
    keys = 0;
    rt_table_size(&table, &keys, &larger);
    ck_assert_uint_eq(larger, bytes + 320);
    uint64_t allocations = mem_count();
    MUST(set(&table, key, slice_of(value, 270), 0)); /* fits where the last one was */
    ck_assert_uint_eq(mem_count(), allocations);
    rt_table_size(&table, &keys, &again);
    ck_assert_uint_eq(again, larger);
    MUST(rt_table_remove(&table, hash_key(key.data, key.len), find(&table, key)));
    MUST(rt_table_gather(&table, &s, NULL) == LEVEE_OK);
    ckpt_slices_release(&s);
    rt_table_size(&table, &keys, &after);
    ck_assert_uint_eq(after, bytes - 64 + 4u * g->spare_cap);
}
END_TEST

/* No memory at any allocation of a change: the table is as it was (S2). */
START_TEST(a_change_without_memory_changes_nothing)
{
    struct levee_slice large = slice_of(model->value[0], 150);
    char buf[80];

    table.idle_ms = _i;
    for (uint32_t i = 1; i < KEYS; i++) {
        struct levee_slice key = key_of(i, buf), value = i % 2 ? large : slice_of(large.data, 9);
        uint64_t keys = 0, bytes = 0;
        for (uint64_t k = 1, hit = 1; hit; k++) {
            uint64_t before = mem_count();
            mem_fail_at(k);
            bool done = set(&table, key, value, i);
            hit = mem_count() - before >= k;
            mem_fail_at(0);
            MUST(done == !hit);
            const struct rt_entry *e = find(&table, key);
            MUST(done == (e && e->present));
            model->touch[i] = i;
            model->there[i] = done;
            compare_due(&table);
        }
        rt_table_size(&table, &keys, &bytes);
        MUST(keys == i);
    }
    for (uint32_t i = 1; i < KEYS; i++) { /* small ones grow, large ones shrink */
        struct levee_slice key = key_of(i, buf), value = i % 2 ? slice_of(large.data, 3) : large;
        for (uint64_t k = 1, hit = 1; hit; k++) {
            struct levee_slice old = rt_entry_value(find(&table, key));
            uint64_t before = mem_count();
            mem_fail_at(k);
            bool done = set(&table, key, value, 0);
            hit = mem_count() - before >= k;
            mem_fail_at(0);
            MUST(done == !hit);
            MUST(done || slice_eq(rt_entry_value(find(&table, key)), old));
        }
        MUST(slice_eq(rt_entry_value(find(&table, key)), value));
    }
    MUST(table.digest == 0);
}
END_TEST

/* ---- one key's state during a call ---- */

START_TEST(a_staged_state_may_be_made_from_itself)
{
    levee_state st = {0};
    struct levee_slice v;

    ck_assert(!levee_state_get(&st, &v));
    for (size_t len = 0; len < 100; len++) {
        uint8_t bytes[100];
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)i;
        }
        ck_assert_int_eq(levee_state_set(&st, slice_of(bytes, len)), LEVEE_OK);
        memset(bytes, 0xee, sizeof bytes); /* it was copied */
        ck_assert(levee_state_get(&st, &v) && v.len == len);
        while (v.len) { /* cut at the front, until nothing is left */
            size_t cut = v.len > 10 ? 7 : 1;
            uint8_t first = v.data[cut < v.len ? cut : 0];
            ck_assert_int_eq(levee_state_set(&st, slice_of(v.data + cut, v.len - cut)), LEVEE_OK);
            size_t left = v.len - cut;
            ck_assert(levee_state_get(&st, &v) && v.len == left);
            ck_assert(left == 0 || (v.data[0] == first && v.data[left - 1] == (uint8_t)(len - 1)));
        }
        ck_assert(v.data != NULL);
    }
    ck_assert(st.changed && st.exists);
    levee_state_remove(&st);
    ck_assert(!levee_state_get(&st, &v));
    ck_assert_int_eq(levee_state_set_i64(&st, -5), LEVEE_OK);
    ck_assert(levee_state_get(&st, &v));
    ck_assert_int_eq(levee_i64(v), -5);
    ck_assert_int_eq(levee_state_set(&st, slice_of(model, (size_t)RT_VALUE_MAX + 1)), LEVEE_ELIMIT);
    ck_assert(levee_state_get(&st, &v) && levee_i64(v) == -5 && !st.failed);
    buf_release(&st.large);
}
END_TEST

/* Whole engines: half-way through, one is gathered into another, and both go on alike. */
START_TEST(an_engine_restored_from_gathers_goes_on_alike)
{
    struct levee_state_options every = {.every_key = true};
    struct bed b[2];
    uint64_t rng = 99;

    for (int i = 0; i < 2; i++) {
        bed_init(&b[i], 1 + (uint32_t)i, 0);
        levee_stream *s = bed_source(&b[i], 2);
        bed_sink(&b[i], levee_update_state_by_key(s, "sum", NULL, levee_update_sum_i64, NULL));
        bed_sink(&b[i], levee_update_state_by_key(s, "log", NULL, fn_log, NULL));
        bed_sink(&b[i], levee_update_state_by_key(s, "tally", &every, fn_tally, NULL));
        MUST(bed_open(&b[i]) == LEVEE_OK);
    }
    for (int round = 0; round < 12; round++) {
        struct levee_record in[300];
        char text[300][24];
        uint8_t le[300][8];
        for (size_t k = 0; k < 300; k++) {
            put_le64(le[k], rng_next(&rng) % 1000);
            int n = snprintf(text[k], 24, "%llu", (unsigned long long)(rng_next(&rng) % 400));
            in[k] = (struct levee_record){slice_of(text[k], (size_t)n), slice_of(le[k], 8), 0};
        }
        for (int i = 0; i < (round < 6 ? 1 : 2); i++) {
            bed_feed(&b[i], 0, 0, in, 200);
            bed_feed(&b[i], 0, 1, in + 200, 100);
            MUST(bed_run(&b[i]) == LEVEE_OK);
        }
        if (round >= 6) {
            ck_assert_mem_eq(b[0].compute.digests, b[1].compute.digests, 3 * sizeof(uint64_t));
        }
        if (round % 2) {
            bed_copy_delta(&b[0], round < 6 ? &b[1] : NULL);
            if (round >= 6) {
                bed_copy_delta(&b[1], NULL);
            }
            ck_assert_uint_eq(rt_engine_state_digest(b[0].engine),
                              rt_engine_state_digest(b[1].engine));
        }
        bed_end_batch(&b[0]);
        bed_end_batch(&b[1]);
        if (round == 5) {
            b[1].batch = b[0].batch;
        }
    }
    struct ckpt_entry e = {.key = slice_str("k"), .value = slice_str("v")};
    ck_assert_int_eq(rt_engine_load(b[0].engine, 77, &e, NULL), LEVEE_ENOTFOUND);
    ck_assert_int_eq(rt_engine_each(b[0].engine, 77, NULL, NULL), LEVEE_ENOTFOUND);
    bed_release(&b[0]);
    bed_release(&b[1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_state");
    TCase *t = tcase_create("tables");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, a_table_equals_a_list_and_what_is_gathered_restores_it, 0, 20);
    tcase_add_test(t, a_digest_tells_tables_apart);
    tcase_add_test(t, places_of_removed_keys_are_used_again);
    tcase_add_test(t, bytes_are_counted_exactly);
    tcase_add_loop_test(t, a_change_without_memory_changes_nothing, 0, 2);
    tcase_add_test(t, a_staged_state_may_be_made_from_itself);
    tcase_add_test(t, an_engine_restored_from_gathers_goes_on_alike);
    suite_add_tcase(s, t);
    return suite_main(s);
}
