/*
 * map_with_state and state_snapshots: the meanings that are easy to get wrong, time-outs above all.
 * (tests/unit/test_rt_model.c compares them in graphs with a model.) Batch k has time 1000 k.
 */
#include "tests/unit/test_rt_functions.h"

static char shown[8192];

/* "k=v" texts, one after the other, into partition 0 of source 0. */
static void feed(struct bed *b, const char *pairs)
{
    for (const char *p = pairs; *p;) {
        size_t len = strcspn(p, " ");
        struct levee_record r = {slice_of(p, 1), slice_of(p + 2, len - 2), 7};
        bed_feed(b, 0, 0, &r, 1);
        p += len + (p[len] == ' ');
    }
}

static void expect_batch(struct bed *b, const char *input, size_t sink, const char *want)
{
    feed(b, input);
    if (bed_run(b) != LEVEE_OK) {
        ck_abort_msg("%s, %s", b->compute.err.what, b->compute.err.found);
    }
    ck_assert_str_eq(bed_show_sorted(b, sink, shown, sizeof shown), want);
    bed_end_batch(b);
}

/* Values say what to do: "+text" appends to the state and emits it, "?" emits it, "x" removes it,
 * "." does nothing, "!" fails after having done all of this. A key that times out emits
 * "timeout:state", unless its state is "!bad": that fails. */
static int command(levee_output *out, levee_state *state, struct levee_slice key,
                   const struct levee_slice *value, void *arg)
{
    struct levee_slice old = {NULL, 0};
    uint8_t text[100];
    char what = value ? (char)value->data[0] : 't';

    (void)arg;
    (void)levee_state_get(state, &old);
    ck_assert_int_eq(levee_state_timing_out(state), value == NULL);
    MUST(old.len + (value ? value->len : 8) <= sizeof text);
    size_t n = old.len;
    if (n) {
        memcpy(text, old.data, n);
    }
    if (what == 't') {
        memmove(text + 8, text, n);
        memcpy(text, "timeout:", 8);
        MUST(levee_emit_copy(out, key, slice_of(text, n + 8)) == 0);
        return n >= 4 && memcmp(text + 8, "!bad", 4) == 0 ? -4 : 0;
    }
    if (what == '+' || what == '!') {
        memcpy(text + n, value->data + 1, value->len - 1);
        n += value->len - 1;
        MUST(levee_state_set(state, slice_of(text, n)) == 0);
    }
    if (what == '+' || what == '!' || what == '?') {
        MUST(levee_emit_copy(out, key, slice_of(text, n)) == 0);
    }
    if (what == 'x' || what == '!') {
        levee_state_remove(state);
        ck_assert(!levee_state_get(state, &old));
    }
    return what == '!' ? -3 : 0;
}

static size_t bed_commands(struct bed *b, const struct levee_map_state_options *o)
{
    bed_init(b, 2, 0);
    size_t out = bed_sink(b, levee_map_with_state(bed_source(b, 1), "state", o, command, NULL));
    b->opt.on_failure = LEVEE_DEAD_LETTER;
    MUST(bed_open(b) == LEVEE_OK);
    MUST(rt_engine_loaded(b->engine, NULL, 0, &b->err) == LEVEE_OK);
    return out;
}

START_TEST(once_per_record_in_arrival_order)
{
    struct bed b;
    size_t out = bed_commands(&b, NULL);

    feed(&b, "a=+1 a=? a=x a=? a=+2 a=.");
    MUST(bed_run(&b) == LEVEE_OK);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, out)->parts[p];
        const char *const want[] = {"1", "1", "", "2"};
        ck_assert(part->count == 0 || part->count == 4);
        for (size_t i = 0; i < part->count; i++) {
            ck_assert(slice_eq(part->items[i].value, slice_str(want[i])));
            ck_assert_int_eq(part->items[i].time_ms, 7); /* the record's */
        }
    }
    ck_assert_uint_eq(b.compute.output_records[out], 4);
    bed_end_batch(&b);
    expect_batch(&b, "", out, "");
    expect_batch(&b, "a=? b=?", out, "a=2 b=");
    expect_batch(&b, "a=x", out, "");
    expect_batch(&b, "a=?", out, "a="); /* and back */
    expect_batch(&b, "a=+3", out, "a=3");
    ck_assert(!rt_engine_wants_empty_batch(b.engine, INT64_MAX - 1));
    bed_release(&b);
}
END_TEST

/* Idle for two batches: out at the first whose time is more than 2000 after the last touch. */
START_TEST(a_time_out_comes_once_and_data_wins)
{
    static const struct levee_map_state_options two = {.timeout_ms = 2000};
    struct bed b;
    size_t out = bed_commands(&b, &two);

    expect_batch(&b, "a=+1 b=+1 c=+1", out, "a=1 b=1 c=1"); /* 1 */
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 3000));
    ck_assert(rt_engine_wants_empty_batch(b.engine, 3001));
    expect_batch(&b, "b=.", out, "");                /* 2: any record is a touch */
    expect_batch(&b, "", out, "");                   /* 3 */
    expect_batch(&b, "c=?", out, "a=timeout:1 c=1"); /* 4: c is due too, but has a record */
    ck_assert(rt_engine_wants_empty_batch(b.engine, 5000));
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 4000));
    expect_batch(&b, "a=?", out, "a= b=timeout:1"); /* 5: a is nobody any more */
    expect_batch(&b, "a=+2", out, "a=2");           /* 6 */
    expect_batch(&b, "c=x", out, "");               /* 7: removed, so it cannot time out */
    expect_batch(&b, "", out, "");                  /* 8 */
    expect_batch(&b, "", out, "a=timeout:2");       /* 9 */
    ck_assert(!rt_engine_wants_empty_batch(b.engine, INT64_MAX - 1));
    expect_batch(&b, "", out, "");
    bed_release(&b);
}
END_TEST

/* A late tick: one batch for many intervals; who is due by time goes, once. */
START_TEST(time_outs_go_by_time_and_not_by_batches)
{
    static const struct levee_map_state_options two = {.timeout_ms = 2000};
    struct bed b;
    size_t out = bed_commands(&b, &two);

    expect_batch(&b, "b=+1 a=+1", out, "a=1 b=1");
    expect_batch(&b, "c=+1", out, "c=1");
    b.batch = 99;
    expect_batch(&b, "c=?", out, "a=timeout:1 b=timeout:1 c=1");
    expect_batch(&b, "", out, "");
    bed_release(&b);
}
END_TEST

START_TEST(initial_state_times_out_from_the_first_batch)
{
    struct levee_record initial[] = {{slice_str("i"), slice_str("0"), 0},
                                     {slice_str("j"), slice_str("old"), 0},
                                     {slice_str("j"), slice_str("5"), 0}};
    struct levee_map_state_options o = {
        .timeout_ms = 1000, .initial = initial, .initial_count = 3, .version = 4};
    struct bed b;
    size_t out = bed_commands(&b, &o);

    ck_assert_uint_eq(b.graph->nodes[1]->state_version, 4);
    ck_assert(rt_engine_wants_empty_batch(b.engine, 1)); /* to begin their time */
    b.batch = 9;
    expect_batch(&b, "j=?", out, "j=5"); /* 10 */
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 11000));
    expect_batch(&b, "j=?", out, "j=5");      /* 11 */
    expect_batch(&b, "", out, "i=timeout:0"); /* 12 */
    expect_batch(&b, "", out, "j=timeout:5"); /* 13 */
    expect_batch(&b, "", out, "");
    bed_release(&b);
}
END_TEST

START_TEST(failed_calls_have_no_effect_but_a_time_out_is_over)
{
    static const struct levee_map_state_options one = {.timeout_ms = 1000};
    struct bed b;
    size_t out = bed_commands(&b, &one);
    struct rt_decision decided[4];

    expect_batch(&b, "a=+1 g=+!bad", out, "a=1 g=!bad"); /* 1 */
    for (int replay = 0; replay < 2; replay++) {         /* 2: a failed call is no touch */
        b.batch = 1;
        feed(&b, "a=!2 n=!3 g=?");
        b.compute.apply = replay ? decided : NULL;
        b.compute.apply_count = replay ? 2 : 0;
        b.compute.apply_only = replay;
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "g=!bad");
        ck_assert_uint_eq(b.compute.decision_count, 2);
        for (size_t i = 0; i < 2; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_str_eq(decided[i].uid, "state");
            ck_assert_int_eq(decided[i].code, -3);
        }
        bed_end_batch(&b);
    }
    expect_batch(&b, "a=!4", out, "a=timeout:1"); /* 3: it failed, so it does not win */
    feed(&b, "");                                 /* 4 */
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[out], 0);
    ck_assert_uint_eq(b.compute.decision_count, 1);
    ck_assert(slice_eq(b.compute.decisions[0].key, slice_str("g")));
    ck_assert(slice_eq(b.compute.decisions[0].value, slice_str("!bad"))); /* its state */
    ck_assert_int_eq(b.compute.decisions[0].code, -4);
    bed_end_batch(&b);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, INT64_MAX - 1)); /* gone all the same */
    expect_batch(&b, "g=?", out, "g=");
    bed_release(&b);
}
END_TEST

/* Whoever is due in one batch comes by last touch, then key: an order that a restart keeps. */
START_TEST(time_outs_come_in_an_order_of_their_own)
{
    struct levee_map_state_options o = {.timeout_ms = 5000};
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = levee_map_with_state(bed_source(&b, 1), "state", &o, command, NULL);
    size_t out = bed_sink(&b, levee_partitions(s, 1));
    MUST(bed_open(&b) == LEVEE_OK);
    /* Two characters, so that some of 300 keys share a key group. */
    for (int batch = 0; batch < 2; batch++) {
        for (int i = 299; i >= 0; i--) {
            char key[8];
            int n = snprintf(key, sizeof key, "%03d", i * 7 % 300);
            struct levee_record r = {slice_of(key, (size_t)n), slice_str("+1"), 0};
            if (batch == 0 || i % 3 == 0) {
                bed_feed(&b, 0, 0, &r, 1);
            }
        }
        MUST(bed_run(&b) == LEVEE_OK);
        bed_end_batch(&b);
    }
    b.batch = 50;
    MUST(bed_run(&b) == LEVEE_OK);
    const struct rt_records *part = &bed_output(&b, out)->parts[0];
    size_t ordered = 0;
    ck_assert_uint_eq(part->count, 300);
    for (size_t i = 1; i < part->count; i++) {
        struct bytes x = view(part->items[i - 1].key), y = view(part->items[i].key);
        bool again = part->items[i - 1].value.len > part->items[i].value.len; /* touched twice */
        bool before = part->items[i - 1].value.len < part->items[i].value.len;
        if (group_of(x) == group_of(y)) {
            ck_assert(!again && (before || memcmp(x.data, y.data, 3) < 0));
            ordered++;
        } else {
            ck_assert(group_of(x) < group_of(y));
        }
    }
    ck_assert_uint_gt(ordered, 100);
    bed_release(&b);
}
END_TEST

/* In groups where some are due, those who are not by one millisecond stay. */
START_TEST(a_key_on_the_edge_stays)
{
    struct levee_map_state_options o = {.timeout_ms = 5000};
    struct bed b;

    bed_init(&b, 2, 0);
    size_t out = bed_sink(&b, levee_map_with_state(bed_source(&b, 1), "state", &o, command, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int batch = 1; batch <= 2; batch++) {
        for (int i = 0; i < 400; i++) {
            char key[8];
            int n = snprintf(key, sizeof key, "%d", i);
            struct levee_record r = {slice_of(key, (size_t)n), slice_str("+1"), 0};
            if (i % 2 == batch % 2) {
                bed_feed(&b, 0, 0, &r, 1);
            }
        }
        MUST(bed_run(&b) == LEVEE_OK);
        bed_end_batch(&b);
    }
    for (uint64_t batch = 3; batch <= 9; batch++) {
        ck_assert_int_eq(rt_engine_wants_empty_batch(b.engine, (int64_t)batch * 1000),
                         batch == 7 || batch == 8);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[out], batch == 7 || batch == 8 ? 200 : 0);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* ---- recovery: at any batch, into another engine with other workers and partitions ---- */

#define BATCHES 14u

static void bed_timed(struct bed *b, uint32_t workers, uint32_t partitions, uint32_t timeout_ms)
{
    static uint8_t le[4][8] = {{1}, {2}, {3}, {4}};
    struct levee_record initial[] = {{slice_str("0"), slice_of(le[0], 8), 0},
                                     {slice_str("5"), slice_of(le[1], 8), 0},
                                     {slice_str("idle"), slice_of(le[2], 8), 0}};
    struct levee_map_state_options o = {
        .timeout_ms = timeout_ms, .initial = initial, .initial_count = 3};

    bed_init(b, workers, 0);
    levee_stream *s = levee_partitions(
        levee_map_with_state(bed_source(b, 2), "visits", &o, fn_visit, NULL), partitions);
    bed_sink(b, levee_repartition(s, 1)); /* in the order of key groups: partitions do not show */
    bed_sink(b, levee_repartition(levee_state_snapshots(s), 1));
    MUST(bed_open(b) == LEVEE_OK);
}

static void feed_batch(struct bed *b, uint64_t seed, uint64_t batch)
{
    uint64_t rng = seed * 1000 + batch;

    for (uint64_t n = rng_next(&rng) % 3 ? rng_next(&rng) % 30 : 0; n > 0; n--) {
        char key[8];
        int len = snprintf(key, sizeof key, "%u", (unsigned)(rng_next(&rng) % 40));
        struct levee_record r = {slice_of(key, (size_t)len),
                                 slice_of("abcdefghij", rng_next(&rng) % 10), 0};
        bed_feed(b, 0, (uint16_t)(rng_next(&rng) % 2), &r, 1);
    }
}

START_TEST(a_restart_at_any_batch_changes_nothing)
{
    static const uint32_t visits = 0, snapshots = 1;
    struct bed straight;
    uint64_t want[BATCHES + 1][2], seed = (uint64_t)_i;
    uint32_t table = rt_uid_hash("visits");

    bed_timed(&straight, 2, 8, 2000);
    MUST(rt_engine_loaded(straight.engine, NULL, 0, NULL) == LEVEE_OK);
    for (uint64_t k = 1; k <= BATCHES; k++) {
        feed_batch(&straight, seed, k);
        MUST(bed_run(&straight) == LEVEE_OK);
        want[k][visits] = straight.compute.digests[visits];
        want[k][snapshots] = straight.compute.digests[snapshots];
        bed_end_batch(&straight);
    }
    bed_release(&straight);
    for (uint64_t at = 1; at < BATCHES; at++) {
        struct bed before, after;
        bed_timed(&before, 1, 3, 2000);
        bed_timed(&after, 3, 5, 2000);
        MUST(rt_engine_loaded(before.engine, NULL, 0, NULL) == LEVEE_OK);
        for (uint64_t k = 1; k <= BATCHES; k++) {
            struct bed *b = k <= at ? &before : &after;
            b->batch = k - 1;
            feed_batch(b, seed, k);
            MUST(bed_run(b) == LEVEE_OK);
            ck_assert_uint_eq(b->compute.digests[visits], want[k][visits]);
            ck_assert_uint_eq(b->compute.digests[snapshots], want[k][snapshots]);
            bed_end_batch(b);
            if (k <= at && (k == at || k % 3 == 0)) {
                bed_copy_delta(&before, &after);
            }
            if (k == at) {
                MUST(rt_engine_loaded(after.engine, &table, 1, NULL) == LEVEE_OK);
                ck_assert_uint_eq(rt_engine_state_digest(before.engine),
                                  rt_engine_state_digest(after.engine));
            }
        }
        bed_release(&before);
        bed_release(&after);
    }
}
END_TEST

START_TEST(another_time_out_counts_from_the_last_record)
{
    struct bed b[2];
    uint32_t table = rt_uid_hash("state");
    struct levee_map_state_options o[2] = {{.timeout_ms = 9000}, {.timeout_ms = 2000}};
    size_t out = bed_commands(&b[0], &o[0]);

    expect_batch(&b[0], "a=+1", out, "a=1");
    expect_batch(&b[0], "b=+1", out, "b=1");
    expect_batch(&b[0], "", out, "");
    bed_init(&b[1], 2, 0);
    out =
        bed_sink(&b[1], levee_map_with_state(bed_source(&b[1], 1), "state", &o[1], command, NULL));
    MUST(bed_open(&b[1]) == LEVEE_OK);
    bed_copy_delta(&b[0], &b[1]);
    MUST(rt_engine_loaded(b[1].engine, &table, 1, NULL) == LEVEE_OK);
    b[1].batch = 3;
    ck_assert(rt_engine_wants_empty_batch(b[1].engine, 4000));
    expect_batch(&b[1], "", out, "a=timeout:1");
    expect_batch(&b[1], "", out, "b=timeout:1");
    bed_release(&b[0]);
    bed_release(&b[1]);
}
END_TEST

/* ---- snapshots ---- */

START_TEST(a_snapshot_is_the_state_after_the_batch)
{
    static const struct levee_map_state_options one = {.timeout_ms = 1000};
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = levee_map_with_state(bed_source(&b, 2), "state", &one, command, NULL);
    size_t snapshot = bed_sink(&b, levee_state_snapshots(s));
    size_t size = bed_sink(&b, levee_count(levee_state_snapshots(s)));
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 1)); /* no state, nothing to show */
    expect_batch(&b, "", snapshot, "");
    expect_batch(&b, "a=+1 b=+1 a=+2", snapshot, "a=12 b=1");
    ck_assert(rt_engine_wants_empty_batch(b.engine, 1));
    expect_batch(&b, "b=x c=+3", snapshot, "a=12 c=3");
    feed(&b, "c=.");
    MUST(bed_run(&b) == LEVEE_OK); /* a has timed out */
    ck_assert_str_eq(bed_show_sorted(&b, snapshot, shown, sizeof shown), "c=3");
    ck_assert_str_eq(bed_show(&b, size, shown, sizeof shown), "=1");
    bed_release(&b);
}
END_TEST

START_TEST(snapshots_of_update_state_by_key)
{
    struct bed b;
    uint8_t two[8] = {2};
    struct levee_record in[] = {{slice_str("x"), slice_of(two, 8), 0},
                                {slice_str("y"), slice_of(two, 8), 0}};

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, levee_state_snapshots(levee_update_state_by_key(
                                  bed_source(&b, 1), "s", NULL, levee_update_sum_i64, NULL)));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 0, in, 2);
    MUST(bed_run(&b) == LEVEE_OK);
    struct rt_compute first = b.compute; /* a sink holds it while the next batch is computed */
    b.compute = (struct rt_compute){0};
    bed_drop_input(&b);
    bed_feed(&b, 0, 0, in, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "x=4 y=2");
    struct rt_compute second = b.compute;
    b.compute = first;
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "x=2 y=2");
    b.compute = second;
    rt_compute_release(b.engine, &first);
    bed_release(&b);
}
END_TEST

START_TEST(builders_refuse)
{
    struct bed b;
    struct levee_map_state_options o = {.initial_count = 1};
    levee_stream *r = NULL;
    const char *text = "";

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    switch (_i) {
    case 0:
        r = levee_map_with_state(s, "u", NULL, NULL, NULL);
        text = "map_with_state u: no function";
        break;
    case 1:
        r = levee_map_with_state(s, "u", &o, command, NULL);
        text = "no initial state";
        break;
    case 2:
        r = levee_map_with_state(s, NULL, NULL, command, NULL);
        text = "map_with_state needs a uid";
        break;
    case 3:
        r = levee_state_snapshots(s);
        text = "state_snapshots: source has no state";
        break;
    default:
        r = levee_state_snapshots(levee_count(s));
        text = "state_snapshots: count has no state";
    }
    ck_assert_ptr_null(r);
    ck_assert_ptr_nonnull(strstr(b.graph->error.what, text));
    ck_assert_ptr_null(levee_map_with_state(NULL, "u", NULL, command, NULL));
    ck_assert_ptr_null(levee_state_snapshots(NULL));
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_map_state");
    TCase *t = tcase_create("map_state");

    tcase_add_test(t, once_per_record_in_arrival_order);
    tcase_add_test(t, a_time_out_comes_once_and_data_wins);
    tcase_add_test(t, time_outs_go_by_time_and_not_by_batches);
    tcase_add_test(t, initial_state_times_out_from_the_first_batch);
    tcase_add_test(t, failed_calls_have_no_effect_but_a_time_out_is_over);
    tcase_add_test(t, time_outs_come_in_an_order_of_their_own);
    tcase_add_test(t, a_key_on_the_edge_stays);
    tcase_add_loop_test(t, a_restart_at_any_batch_changes_nothing, 0, 8);
    tcase_add_test(t, another_time_out_counts_from_the_last_record);
    tcase_add_test(t, a_snapshot_is_the_state_after_the_batch);
    tcase_add_test(t, snapshots_of_update_state_by_key);
    tcase_add_loop_test(t, builders_refuse, 0, 5);
    suite_add_tcase(s, t);
    return suite_main(s);
}
