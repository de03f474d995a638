/*
 * Functions that fail (design 4d.7): a failed call has had no effect, is retried, then ends the
 * batch with an error that names the line, or becomes a dead letter: a decision, which a replay
 * applies (4d.5).
 */
#include "tests/unit/test_rt_functions.h"

static char shown[4096];

/* Fails on values that begin with '!', as often as the digit behind says (9: always), with a code
 * that is also LEVEE_ENOMEM's. Half-done work must not show. */
static int calls[16];
static int moody(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    MUST(levee_emit(out, slice_str("seen"), in->value) == 0);
    if (in->value.len == 2 && in->value.data[0] == '!') {
        int digit = in->value.data[1] - '0';
        if (digit == 9 || calls[digit] < digit) {
            calls[digit]++;
            MUST(levee_emit_copy(out, slice_str("debris"), in->value) == 0);
            return -1;
        }
    }
    return 0;
}

static int moody_many(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = moody(out, &in[i], arg);
    }
    return rc;
}

static const char *const lines[] = {"a", "!1", "b", "!9", "!2", "c"};

static void bed_moody(struct bed *b, bool many, uint32_t retries, enum levee_on_failure policy)
{
    memset(calls, 0, sizeof calls);
    bed_init(b, 2, 0);
    levee_stream *s = bed_source(b, 1);
    bed_sink(b, many ? levee_flat_map_many_at(s, moody_many, NULL, "graph.c", 17)
                     : levee_flat_map_at(s, moody, NULL, "graph.c", 17));
    b->opt.retries = retries;
    b->opt.on_failure = policy;
    MUST(bed_open(b) == LEVEE_OK);
    bed_feed_text(b, lines, ARRAY_LEN(lines));
}

START_TEST(a_failed_call_has_no_effect_and_is_retried)
{
    struct bed b;
    bool many = _i;

    bed_moody(&b, many, 2, LEVEE_DEAD_LETTER);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, 0, shown, sizeof shown), "seen=a seen=!1 seen=b seen=!2 seen=c");
    ck_assert_uint_eq(b.compute.decision_count, 1);
    const struct rt_decision *d = b.compute.decisions;
    ck_assert_str_eq(d->uid, many ? "#1:flat_map_many" : "#1:flat_map");
    ck_assert_uint_eq(d->index, 3);
    ck_assert_uint_eq(d->partition, 0);
    ck_assert_int_eq(d->code, -1);
    ck_assert_uint_eq(d->attempts, 3);
    ck_assert(slice_eq(d->value, slice_str("!9")));
    ck_assert_ptr_null(d->key.data);
    bed_release(&b);
}
END_TEST

START_TEST(by_default_a_failure_ends_the_batch_and_names_the_line)
{
    struct bed b;

    bed_moody(&b, _i, 1, LEVEE_STOP);
    ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
    const struct levee_error *err = &b.compute.err;
    ck_assert_int_eq(err->code, LEVEE_EFUNCTION);
    ck_assert_str_eq(err->where, "graph.c:17");
    ck_assert_ptr_nonnull(strstr(err->what, _i ? "#1:flat_map_many" : "#1:flat_map"));
    ck_assert_ptr_nonnull(strstr(err->what, "record 3 of partition 0"));
    ck_assert_str_eq(err->found, "-1 after 2 calls");
    bed_release(&b);
}
END_TEST

/* A replay under the same program id applies what was decided, without calling. */
START_TEST(a_replay_applies_decisions)
{
    struct bed b;
    struct rt_decision first[2];
    static const char *const some[] = {"a", "!5", "b", "!9", "!6", "c"};

    bed_moody(&b, _i, 0, LEVEE_DEAD_LETTER);
    bed_drop_input(&b);
    bed_feed_text(&b, some, ARRAY_LEN(some));
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, 0, shown, sizeof shown), "seen=a seen=b seen=c");
    ck_assert_uint_eq(b.compute.decision_count, 3);
    uint64_t digest = b.compute.digests[0];
    struct rt_decision all[3];
    memcpy(all, b.compute.decisions, sizeof all);
    bed_end_batch(&b);

    memset(calls, 0, sizeof calls);
    calls[5] = calls[6] = 9; /* they would succeed now */
    bed_feed_text(&b, some, ARRAY_LEN(some));
    b.compute.apply = all;
    b.compute.apply_count = 3;
    b.compute.apply_only = true;
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.digests[0], digest);
    ck_assert_uint_eq(b.compute.decision_count, 3);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(b.compute.decisions[i].index, all[i].index);
        ck_assert_int_eq(b.compute.decisions[i].code, -1);
        ck_assert_uint_eq(b.compute.decisions[i].attempts, 1);
        ck_assert_ptr_nonnull(b.compute.decisions[i].value.data);
    }
    ck_assert_int_eq(calls[9], 0); /* not called */
    bed_end_batch(&b);

    /* One decision is missing: what failed then fails now, and is not decided anew. */
    first[0] = all[0];
    first[1] = all[2];
    memset(calls, 0, sizeof calls);
    bed_feed_text(&b, some, ARRAY_LEN(some));
    b.compute.apply = first;
    b.compute.apply_count = 2;
    b.compute.apply_only = true;
    ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
    ck_assert_ptr_nonnull(strstr(b.compute.err.what, "when the batch first ran"));
    bed_end_batch(&b);

    /* Without apply_only a further failure is a further decision. */
    memset(calls, 0, sizeof calls);
    bed_feed_text(&b, some, ARRAY_LEN(some));
    b.compute.apply = first;
    b.compute.apply_count = 2;
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.decision_count, 3);
    bed_release(&b);
}
END_TEST

/* ---- failures of the other kinds of functions ---- */

static int two_or_none(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    if (in->value.data[0] == '2') {
        MUST(levee_emit_record(out, in) == 0);
    }
    return in->value.data[0] == '0' ? 0 : levee_emit_record(out, in);
}

START_TEST(map_and_map_values_want_exactly_one_record)
{
    static const char *const in[] = {"1", "0", "2", "1"};
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t map = bed_sink(&b, levee_map(s, two_or_none, NULL));
    size_t values = bed_sink(&b, levee_map_values(s, two_or_none, NULL));
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed_text(&b, in, 4);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, map, shown, sizeof shown), "=1 =1");
    ck_assert_str_eq(bed_show(&b, values, shown, sizeof shown), "=1 =1");
    ck_assert_uint_eq(b.compute.decision_count, 4);
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(b.compute.decisions[i].code, LEVEE_EINVALID);
        ck_assert_uint_eq(b.compute.decisions[i].index, 1 + i % 2);
    }
    bed_release(&b);
}
END_TEST

/* A reducer that joins values with '+', and whose calls fail for some: '!' in add and create, '?'
 * in finish, '#' in merge; not before having spoiled the accumulator. */
struct join {
    char text[64];
    size_t len;
};
static void join_put(struct join *j, const uint8_t *p, size_t n)
{
    MUST(j->len + n + 1 < sizeof j->text);
    if (j->len) {
        j->text[j->len++] = '+';
    }
    memcpy(j->text + j->len, p, n);
    j->len += n;
}
static int join_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)arg;
    join_put(acc, value.data, value.len);
    if (value.data[0] == '%') {
        return levee_emit(out, value, value); /* only finish may emit */
    }
    return value.data[0] == '!' ? -7 : 0;
}
static int join_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    const struct join *o = other;

    (void)out;
    (void)arg;
    join_put(acc, (const uint8_t *)o->text, o->len);
    return memchr(o->text, '#', o->len) ? -8 : 0;
}
static int join_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct join *j = acc;

    (void)arg;
    MUST(levee_emit_copy(out, key, slice_of(j->text, j->len)) == 0);
    return memchr(j->text, '?', j->len) ? -9 : 0;
}
static const struct levee_reducer join = {1,    sizeof(struct join), join_add, join_add, join_merge,
                                          NULL, join_finish,         NULL};

START_TEST(a_reducers_failed_calls_have_no_effect)
{
    static const char *const in[2][6] = {{"a1", "b!", "a2", "a!", "a3", "c?"},
                                         {"a4", "b1", "d#", "a%", "e1", "e2"}};
    struct bed b;

    for (int replay = 0; replay < 2; replay++) {
        bed_init(&b, 1, 0);
        levee_stream *s = bed_source(&b, 2);
        size_t out = bed_sink(&b, levee_reduce_by_key(s, &join));
        b.opt.on_failure = LEVEE_DEAD_LETTER;
        b.opt.retries = 1;
        MUST(bed_open(&b) == LEVEE_OK);
        struct rt_decision decisions[8];
        for (int round = 0; round <= replay; round++) {
            for (uint16_t p = 0; p < 2; p++) {
                for (size_t i = 0; i < 6; i++) {
                    struct levee_record r = {slice_of(in[p][i], 1), slice_of(in[p][i] + 1, 1), 0};
                    bed_feed(&b, 0, p, &r, 1);
                }
            }
            b.compute.apply = round ? decisions : NULL;
            b.compute.apply_count = round ? 4 : 0;
            b.compute.apply_only = round;
            MUST(bed_run(&b) == LEVEE_OK);
            ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown),
                             "a=1+2+3+4 b=1 d=# e=1+2");
            /* In partition 0 records 1 and 3, in partition 1 record 3, and the key c. */
            ck_assert_uint_eq(b.compute.decision_count, 4);
            size_t records = 0, keys = 0;
            for (size_t i = 0; i < 4; i++) {
                const struct rt_decision *d = &b.compute.decisions[i];
                decisions[i] = *d;
                ck_assert_str_eq(d->uid, "#1:reduce_by_key");
                ck_assert_uint_eq(d->attempts, 2);
                records += d->code == -7 && d->partition == 0 && (d->index == 1 || d->index == 3);
                records += d->code == LEVEE_EINVALID && d->partition == 1 && d->index == 3;
                keys += d->code == -9 && d->key.len == 1 && d->key.data[0] == 'c';
            }
            ck_assert_uint_eq(records, 3);
            ck_assert_uint_eq(keys, 1);
            bed_end_batch(&b);
        }
        bed_release(&b);
    }
}
END_TEST

START_TEST(a_failed_merge_takes_its_key_with_it)
{
    static const char *const in[2] = {"k1", "k#"};
    struct bed b;

    bed_init(&b, 2, 0);
    bed_sink(&b, levee_reduce_by_key_at(bed_source(&b, 2), &join, "graph.c", 5));
    b.opt.on_failure = _i ? LEVEE_DEAD_LETTER : LEVEE_STOP;
    MUST(bed_open(&b) == LEVEE_OK);
    for (uint16_t p = 0; p < 2; p++) {
        struct levee_record r = {slice_of(in[p], 1), slice_of(in[p] + 1, 1), 0};
        bed_feed(&b, 0, p, &r, 1);
    }
    if (_i) {
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[0], 0);
        ck_assert_uint_eq(b.compute.decision_count, 1);
        ck_assert_int_eq(b.compute.decisions[0].code, -8);
    } else {
        ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
        ck_assert_str_eq(b.compute.err.where, "graph.c:5");
        ck_assert_str_eq(b.compute.err.found, "-8 after 1 calls");
        ck_assert_ptr_nonnull(strstr(b.compute.err.what, "failed on key 0 of partition"));
    }
    bed_release(&b);
}
END_TEST

/* State := the last value, but "bad" values fail after having set and removed. */
static int keep_last(levee_output *out, levee_state *state, struct levee_slice key,
                     const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice v = values[n - 1];

    (void)key;
    (void)arg;
    if (slice_eq(v, slice_str("bad"))) {
        MUST(levee_state_set(state, slice_str("a value that must not be seen")) == 0);
        MUST(levee_emit(out, key, v) == 0);
        levee_state_remove(state);
        return -3;
    }
    return levee_state_set(state, v);
}

START_TEST(a_failed_update_leaves_the_state_alone)
{
    struct levee_record in[3][2] = {
        {{slice_str("k"), slice_str("one"), 0}, {slice_str("m"), slice_str("bad"), 0}},
        {{slice_str("k"), slice_str("two"), 0}, {slice_str("k"), slice_str("bad"), 0}},
        {{slice_str("k"), slice_str("three"), 0}, {slice_str("m"), slice_str("four"), 0}}};
    static const char *const want[] = {"k=one", "", "k=three m=four"};
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t out = bed_sink(&b, levee_update_state_by_key(s, "last", NULL, keep_last, NULL));
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    MUST(bed_open(&b) == LEVEE_OK);
    for (size_t i = 0; i < 3; i++) {
        bed_feed(&b, 0, 0, in[i], 2);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), want[i]);
        ck_assert_uint_eq(b.compute.decision_count, i < 2);
        if (i == 1) { /* the whole key's values become one dead letter, named by the first */
            const struct rt_decision *d = b.compute.decisions;
            ck_assert_str_eq(d->uid, "last");
            ck_assert(slice_eq(d->key, slice_str("k")) && slice_eq(d->value, slice_str("two")));
            ck_assert_int_eq(d->code, -3);
            ck_assert_uint_eq(d->node_uid_hash, rt_uid_hash("last"));
        }
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* Of several failed units the first in plan order counts, on any schedule. */
static int always_fails(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)out;
    (void)arg;
    return in->value.data[0] == '!' ? -4 : 0;
}

START_TEST(of_several_errors_the_first_in_plan_order_counts)
{
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct bed b;
        struct levee_record r = {.value = slice_str("!")}, fine = {.value = slice_str("-")};
        bed_init(&b, 4, seed);
        bed_sink(&b, levee_flat_map(bed_source(&b, 6), always_fails, NULL));
        MUST(bed_open(&b) == LEVEE_OK);
        for (uint16_t p = 0; p < 6; p++) {
            bed_feed(&b, 0, p, p < 2 ? &fine : &r, 1);
        }
        ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
        ck_assert_ptr_nonnull(strstr(b.compute.err.what, "partition 2"));
        bed_release(&b);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_failures");
    TCase *t = tcase_create("failures");

    tcase_add_loop_test(t, a_failed_call_has_no_effect_and_is_retried, 0, 2);
    tcase_add_loop_test(t, by_default_a_failure_ends_the_batch_and_names_the_line, 0, 2);
    tcase_add_loop_test(t, a_replay_applies_decisions, 0, 2);
    tcase_add_test(t, map_and_map_values_want_exactly_one_record);
    tcase_add_test(t, a_reducers_failed_calls_have_no_effect);
    tcase_add_loop_test(t, a_failed_merge_takes_its_key_with_it, 0, 2);
    tcase_add_test(t, a_failed_update_leaves_the_state_alone);
    tcase_add_test(t, of_several_errors_the_first_in_plan_order_counts);
    suite_add_tcase(s, t);
    return suite_main(s);
}
