/* Operators one by one: the meanings that are easy to get wrong. (tests/unit/test_rt_model.c
 * compares graphs of all of them with a model.) */
#include "tests/unit/test_rt_functions.h"

static char shown[4096];

START_TEST(count_of_an_empty_batch_is_one_record_0)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 3);
    size_t count = bed_sink(&b, levee_count(s)),
           total = bed_sink(&b, levee_reduce(s, &levee_sum_i64));
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 1000));
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, count, shown, sizeof shown), "=0");
    ck_assert_uint_eq(b.compute.output_records[total], 0);
    ck_assert_uint_eq(b.compute.digests[total], 0);
    ck_assert_uint_ne(b.compute.digests[count], 0);
    bed_release(&b);
}
END_TEST

START_TEST(the_words_of_a_line)
{
    struct bed b;
    const char *lines[] = {"to be or  not to\t be", "", " \n\v\f\r", "be"};

    bed_init(&b, 1, 0);
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(bed_source(&b, 1), fn_words, NULL), 1);
    size_t counts = bed_sink(&b, levee_reduce_by_key(pairs, &levee_sum_i64));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed_text(&b, lines, ARRAY_LEN(lines));
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, counts, shown, sizeof shown), "be=3 not=1 or=1 to=2");
    ck_assert_uint_eq(b.compute.records, 4);
    bed_release(&b);
}
END_TEST

START_TEST(words_of_every_length_and_alignment)
{
    struct bed b;
    char line[200], want[400];

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, levee_flat_map(bed_source(&b, 1), fn_words, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    for (unsigned first = 0; first < 70; first++) {
        size_t n = 0, w = 0;
        for (unsigned len = first; len > 0 && n + len + 1 < sizeof line; len -= 1 + len / 3) {
            memset(line + n, 'a' + (int)(len % 26), len);
            w += (size_t)snprintf(want + w, sizeof want - w, "%s%.*s=", w ? " " : "", (int)len,
                                  line + n);
            n += len;
            line[n++] = " \t\n\v\f\r"[len % 6];
        }
        struct levee_record r = {.value = slice_of(line, n)};
        want[w] = 0;
        bed_feed(&b, 0, 0, &r, 1);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), want);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

static int everything_is_a_word(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < in->value.len; i++) {
        MUST(levee_emit_words(out, slice_of(in->value.data + i, 1)) == 0);
    }
    return 0;
}

START_TEST(six_bytes_are_white_space_and_no_others)
{
    struct bed b;
    uint8_t all[256];

    for (size_t i = 0; i < sizeof all; i++) {
        all[i] = (uint8_t)i;
    }
    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t each = bed_sink(&b, levee_flat_map(s, everything_is_a_word, NULL));
    size_t runs = bed_sink(&b, levee_flat_map(s, fn_words, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    struct levee_record r = {.value = slice_of(all, sizeof all)};
    bed_feed(&b, 0, 0, &r, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[each], 250);
    const struct levee_record *w = bed_output(&b, runs)->parts[0].items;
    ck_assert_uint_eq(b.compute.output_records[runs], 3); /* 0–8, 14–31, 33–255 */
    ck_assert_uint_eq(w[0].key.len, 9);
    ck_assert_uint_eq(w[1].key.len, 18);
    ck_assert_uint_eq(w[2].key.len, 223);
    ck_assert_ptr_null(w[0].value.data);
    bed_release(&b);
}
END_TEST

START_TEST(a_group_keeps_arrival_order)
{
    struct bed b;
    struct levee_record in[] = {{slice_str("k"), slice_str("2"), 0},
                                {slice_str("k"), slice_of(NULL, 0), 0},
                                {slice_str("k"), slice_of("", 0), 0},
                                {slice_str("k"), slice_str("1"), 0}};
    struct levee_slice v;

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, levee_group_by_key(bed_source(&b, 2)));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 1, in + 2, 2); /* partition 1 comes after partition 0 */
    bed_feed(&b, 0, 0, in, 2);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[out], 1);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, out)->parts[p];
        if (part->count == 0) {
            continue;
        }
        struct levee_slice g = part->items[0].value;
        ck_assert(levee_group_next(&g, &v) && slice_eq(v, slice_str("2")));
        ck_assert(levee_group_next(&g, &v) && v.data == NULL);
        ck_assert(levee_group_next(&g, &v) && v.data != NULL && v.len == 0);
        ck_assert(levee_group_next(&g, &v) && slice_eq(v, slice_str("1")));
        ck_assert(!levee_group_next(&g, &v));
    }
    struct levee_slice damaged = slice_of("\x09"
                                          "abc",
                                          4);
    ck_assert(!levee_group_next(&damaged, &v));
    bed_release(&b);
}
END_TEST

/* Keys 1 and 2 have initial state; 3 has not. */
START_TEST(initial_state_is_for_keys_never_seen)
{
    uint8_t ten[8] = {10}, twenty[8] = {20};
    struct levee_record initial[] = {{slice_str("1"), slice_of(ten, 8), 0},
                                     {slice_str("2"), slice_of(twenty, 8), 0}};
    struct levee_state_options o = {.initial = initial, .initial_count = 2, .version = 3};

    for (int known = 0; known < 2; known++) {
        struct bed b;
        struct levee_record in[] = {{slice_str("1"), slice_of(ten, 8), 0},
                                    {slice_str("3"), slice_of(ten, 8), 0}};
        uint32_t table = rt_uid_hash("s");
        uint64_t keys, bytes;
        bed_init(&b, 1, 0);
        levee_stream *s =
            levee_update_state_by_key(bed_source(&b, 1), "s", &o, levee_update_sum_i64, NULL);
        ck_assert_uint_eq(s->state_version, 3);
        size_t out = bed_sink(&b, s);
        MUST(bed_open(&b) == LEVEE_OK);
        MUST(rt_engine_loaded(b.engine, &table, (size_t)known, &b.err) == LEVEE_OK);
        rt_engine_state_size(b.engine, &keys, &bytes);
        ck_assert_uint_eq(keys, known ? 0 : 2);
        bed_feed(&b, 0, 0, in, 2);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown),
                         known ? "1=10 3=10" : "1=20 3=10");
        bed_release(&b);
    }
}
END_TEST

/* cases.md: values add and set idle 0, none adds 1; idle 2 removes. */
static int drop_after_two_idle(levee_output *out, levee_state *state, struct levee_slice key,
                               const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    uint8_t count = 0, idle = 0;

    (void)out;
    (void)key;
    (void)values;
    (void)arg;
    if (levee_state_get(state, &old)) {
        count = old.data[0];
        idle = old.data[1];
    }
    idle = n ? 0 : (uint8_t)(idle + 1);
    uint8_t now[2] = {(uint8_t)(count + n), idle};
    if (idle == 2) {
        levee_state_remove(state);
        return 0;
    }
    return levee_state_set(state, slice_of(now, 2));
}

START_TEST(every_key_is_called_each_batch_until_it_is_removed)
{
    struct bed b;
    struct levee_state_options o = {.every_key = true};
    struct levee_record a = {slice_str("a"), slice_str("v"), 0}, c = {slice_str("c"), a.value, 0};
    const size_t expected[] = {1, 2, 1, 0, 1}; /* records out of each batch */

    bed_init(&b, 2, 0);
    size_t out = bed_sink(
        &b, levee_update_state_by_key(bed_source(&b, 1), "s", &o, drop_after_two_idle, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 1000)); /* no key yet */
    for (size_t batch = 0; batch < ARRAY_LEN(expected); batch++) {
        if (batch == 0 || batch == 4) {
            bed_feed(&b, 0, 0, &a, 1);
        } else if (batch == 1) {
            bed_feed(&b, 0, 0, &c, 1);
        }
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[out], expected[batch]);
        bed_end_batch(&b);
        ck_assert(rt_engine_wants_empty_batch(b.engine, INT64_MIN) == (expected[batch] > 0));
    }
    bed_release(&b);
}
END_TEST

/* The combine's table is emptied when it is full: more keys than it holds, then few again. */
START_TEST(sums_are_right_when_a_combine_overflows)
{
    enum { KEYS = 50000, ROUNDS = 3 };
    struct bed b;
    struct levee_record *in = calloc(KEYS, sizeof *in);
    char *names = calloc(KEYS, 12);
    uint8_t one[8] = {1};
    uint64_t total = 0;

    MUST(in && names);
    for (size_t i = 0; i < KEYS; i++) {
        int n = snprintf(names + 12 * i, 12, "key%zu", i);
        in[i] = (struct levee_record){slice_of(names + 12 * i, (size_t)n), slice_of(one, 8), 0};
    }
    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t sums = bed_sink(&b, levee_reduce_by_key(s, &levee_sum_i64));
    size_t spans = bed_sink(&b, levee_reduce_by_key(s, &span));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int r = 0; r < ROUNDS; r++) {
        bed_feed(&b, 0, 0, in, KEYS);
    }
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[sums], KEYS);
    ck_assert_uint_eq(b.compute.output_records[spans], KEYS);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, sums)->parts[p];
        const struct rt_records *other = &bed_output(&b, spans)->parts[p];
        uint32_t group = 0;
        for (size_t i = 0; i < part->count; i++) {
            uint32_t g = group_of(view(part->items[i].key));
            MUST(g >= group && slice_eq(part->items[i].key, other->items[i].key));
            MUST(levee_i64(part->items[i].value) == ROUNDS);
            group = g;
            total++;
        }
    }
    ck_assert_uint_eq(total, KEYS);
    bed_release(&b);
    free(in);
    free(names);
}
END_TEST

START_TEST(values_are_counted_whatever_their_keys)
{
    struct bed b;
    struct levee_record in[] = {{slice_str("k"), slice_str("x"), 1},
                                {slice_str("l"), slice_str("x"), 2},
                                {slice_str("y"), slice_str("z"), 3},
                                {slice_of(NULL, 0), slice_str("x"), 4},
                                {slice_str("k"), slice_of(NULL, 0), 5}};

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 2);
    size_t counts = bed_sink(&b, levee_count_by_value(s)), same = bed_sink(&b, s);
    MUST(levee_count_by_value(NULL) == NULL && levee_combine_by_key(NULL, &span) == NULL);
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 1, in, 2);
    bed_feed(&b, 0, 0, in + 2, 3);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, counts, shown, sizeof shown), "=1 x=3 z=1");
    /* Who else reads the source sees its keys. */
    ck_assert_str_eq(bed_show_sorted(&b, same, shown, sizeof shown), "=x k= k=x l=x y=z");
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[counts], 0);
    bed_release(&b);
}
END_TEST

/* ---- update_state_by_partition ---- */

/* Takes `take` keys: state = how many keys came before, then the number of values; removed if that
 * is
 * 3. Says how many it took. Fails `failures` times, having done all that. */
struct ranking {
    size_t take;
    int failures;
    _Atomic int calls;
};
static int rank_keys(levee_output *out, levee_updates *updates, void *arg)
{
    struct ranking *r = arg;
    struct levee_update u;
    struct levee_slice old;
    size_t n = 0;

    for (; n < r->take && levee_update_next(updates, &u); n++) {
        char text[40];
        int len = snprintf(text, sizeof text, "%zu/%zu", n, u.n);
        if (u.n == 3) {
            levee_state_remove(u.state);
            MUST(!levee_state_get(u.state, &old));
        } else if (u.n) {
            MUST(levee_state_set(u.state, slice_of(text, (size_t)len)) == 0);
            MUST(levee_state_get(u.state, &old) && old.len == (size_t)len);
        }
    }
    MUST(n == r->take || !levee_update_next(updates, &u)); /* the end stays the end */
    MUST(levee_emit_i64(out, slice_str("took"), (int64_t)n) == 0);
    return r->calls++ < r->failures ? -21 : 0;
}

static size_t bed_ranking(struct bed *b, struct ranking *r, bool every_key)
{
    struct levee_record initial[] = {{slice_str("i"), slice_str("0"), 0}};
    struct levee_state_options o = {
        .every_key = every_key, .initial = initial, .initial_count = 1, .version = 2};

    bed_init(b, 2, 0);
    levee_stream *s = levee_update_state_by_partition_at(bed_source(b, 1), "rank", &o, rank_keys, r,
                                                         "graph.c", 8);
    ck_assert_uint_eq(s->state_version, 2);
    size_t out = bed_sink(b, levee_partitions(s, 1));
    b->opt.retries = 1;
    b->opt.on_failure = LEVEE_DEAD_LETTER;
    MUST(bed_open(b) == LEVEE_OK);
    MUST(rt_engine_loaded(b->engine, NULL, 0, NULL) == LEVEE_OK);
    return out;
}

static void feed_keys(struct bed *b, const char *keys)
{
    for (size_t i = 0; keys[i]; i++) {
        struct levee_record r = {slice_of(keys + i, 1), slice_of(keys + i, 1), 0};
        bed_feed(b, 0, 0, &r, 1);
    }
}

START_TEST(a_partition_is_updated_in_one_call)
{
    struct ranking r = {.take = 100};
    struct bed b;
    size_t out = bed_ranking(&b, &r, _i);
    /* What is known without knowing the order of key groups: ranks are 0, 1, 2 … */
    unsigned ranks = 0;

    ck_assert_int_eq(rt_engine_wants_empty_batch(b.engine, 1), _i);
    feed_keys(&b, "aabbbcdd");
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_int_eq(r.calls, 1);
    const struct rt_records *part = &bed_output(&b, out)->parts[0];
    ck_assert(slice_eq(part->items[0].key, slice_str("took")));
    ck_assert_int_eq(levee_i64(part->items[0].value), 4 + _i);
    ck_assert_uint_eq(part->count, 4u + (unsigned)_i); /* b was removed; i only with every_key */
    for (size_t i = 1; i < part->count; i++) {
        const struct levee_record *x = &part->items[i];
        if (x->key.data[0] != 'i') {
            ranks |= 1u << (x->value.data[0] - '0');
            ck_assert_uint_eq(x->value.data[2], x->key.data[0] == 'c' ? '1' : '2');
        } else {
            ck_assert(slice_eq(x->value, slice_str("0")));
        }
    }
    ck_assert_int_eq(__builtin_popcount(ranks), 3);
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK); /* without input there is a call, too */
    ck_assert_int_eq(r.calls, 2);
    ck_assert_uint_eq(b.compute.output_records[out], _i ? 5 : 1);
    bed_release(&b);
}
END_TEST

START_TEST(keys_that_are_not_taken_keep_their_state)
{
    struct ranking r = {.take = 100};
    struct bed b;
    size_t out = bed_ranking(&b, &r, false);
    uint64_t digest = 0;

    for (int batch = 0; batch < 3; batch++) {
        feed_keys(&b, batch == 1 ? "acdbbb" : "acd");
        r.take = batch == 1 ? 0 : 100;
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[out], 4); /* b has none */
        ck_assert(batch == 1 || digest == 0 || b.compute.digests[out] == digest);
        digest = batch == 0 ? b.compute.digests[out] : digest;
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* The first try sets all states and fails, the second takes no key. */
static int set_then_nothing(levee_output *out, levee_updates *updates, void *arg)
{
    struct levee_update u;

    (void)out;
    if (++*(_Atomic int *)arg > 1) {
        return 0;
    }
    while (levee_update_next(updates, &u)) {
        MUST(levee_state_set(u.state, u.key) == 0);
    }
    return -1;
}

START_TEST(a_second_try_begins_with_nothing_done)
{
    _Atomic int calls = 0;
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s =
        levee_update_state_by_partition(bed_source(&b, 1), "s", NULL, set_then_nothing, &calls);
    size_t out = bed_sink(&b, levee_partitions(s, 1));
    b.opt.retries = 1;
    MUST(bed_open(&b) == LEVEE_OK);
    feed_keys(&b, "abc");
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_int_eq(calls, 2);
    ck_assert_uint_eq(b.compute.output_records[out], 0);
    bed_release(&b);
}
END_TEST

START_TEST(a_failed_partition_has_changed_no_state)
{
    struct ranking r = {.take = 100, .failures = 1};
    struct rt_decision decided[5];
    struct bed b;
    size_t out = bed_ranking(&b, &r, false);

    feed_keys(&b, "aac");
    MUST(bed_run(&b) == LEVEE_OK); /* the second try */
    ck_assert_uint_eq(b.compute.output_records[out], 3);
    ck_assert_uint_eq(b.compute.decision_count, 0);
    bed_end_batch(&b);
    bed_copy_delta(&b, NULL);
    uint64_t digest = rt_engine_state_digest(b.engine);
    for (int replay = 0; replay < 2; replay++) {
        size_t as = 0;
        r.calls = 0;
        r.failures = 99;
        feed_keys(&b, "aaaci");
        b.compute.apply = replay ? decided : NULL;
        b.compute.apply_count = replay ? 5 : 0;
        b.compute.apply_only = replay;
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_int_eq(r.calls, replay ? 0 : 2);
        ck_assert_uint_eq(b.compute.output_records[out], 0);
        ck_assert_uint_eq(b.compute.decision_count, 5);
        for (size_t i = 0; i < 5; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_str_eq(decided[i].uid, "rank");
            ck_assert_uint_eq(decided[i].index, i);
            ck_assert_int_eq(decided[i].code, -21);
            ck_assert(slice_eq(decided[i].key, decided[i].value));
            as += decided[i].key.data[0] == 'a';
        }
        ck_assert_uint_eq(as, 3);
        bed_end_batch(&b);
        bed_copy_delta(&b, NULL);
        ck_assert_uint_eq(rt_engine_state_digest(b.engine), digest);
    }
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_operators");
    TCase *t = tcase_create("meanings");

    tcase_add_test(t, count_of_an_empty_batch_is_one_record_0);
    tcase_add_test(t, the_words_of_a_line);
    tcase_add_test(t, words_of_every_length_and_alignment);
    tcase_add_test(t, six_bytes_are_white_space_and_no_others);
    tcase_add_test(t, a_group_keeps_arrival_order);
    tcase_add_test(t, initial_state_is_for_keys_never_seen);
    tcase_add_test(t, every_key_is_called_each_batch_until_it_is_removed);
    tcase_add_test(t, sums_are_right_when_a_combine_overflows);
    tcase_add_test(t, values_are_counted_whatever_their_keys);
    tcase_add_loop_test(t, a_partition_is_updated_in_one_call, 0, 2);
    tcase_add_test(t, keys_that_are_not_taken_keep_their_state);
    tcase_add_test(t, a_second_try_begins_with_nothing_done);
    tcase_add_test(t, a_failed_partition_has_changed_no_state);
    suite_add_tcase(s, t);
    return suite_main(s);
}
