/*
 * Running batches: memory that runs out at every single allocation, memory that is used again, too
 * much state, batches that overlap with the sinks of earlier ones, a machine that dies in the
 * middle.
 */
#include "tests/unit/test_rt_functions.h"

static char shown[4096];

/* ---- memory ---- */

static levee_stream *rich_graph(struct bed *b)
{
    levee_stream *s = bed_source(b, 2);
    levee_stream *words = levee_flat_map(s, fn_words, NULL);
    levee_stream *sums = levee_reduce_by_key(levee_map_to_i64(words, 1), &levee_sum_i64);

    bed_sink(b, levee_update_state_by_key(sums, "sums", NULL, levee_update_sum_i64, NULL));
    bed_sink(b, levee_group_by_key(levee_flat_map_many(words, fn_twice, NULL)));
    bed_sink(b, levee_reduce_by_key(s, &levee_concat));
    bed_sink(b, levee_update_state_by_key(s, "log", NULL, fn_log, NULL));
    bed_sink(b, levee_map_values(levee_filter(s, fn_odd, NULL), fn_length, NULL));
    return s;
}

static int fn_everything(levee_output *out, const levee_batch *const *in, size_t n,
                         const levee_batch **ret, void *arg)
{
    const levee_batch *counts = levee_batch_reduce_by_key(in[0], &levee_count_values);
    const levee_batch *both = levee_batch_join(in[1], counts, LEVEE_FULL_OUTER);
    const levee_batch *words = levee_batch_flat_map(in[0], fn_words, NULL);

    (void)out;
    (void)arg;
    MUST(n == 2);
    both = levee_batch_sort_by_key(levee_batch_distinct(both), NULL, NULL);
    words =
        levee_batch_group_by_key(levee_batch_sample(levee_batch_filter(words, fn_odd, NULL), 0.5));
    *ret = levee_batch_union((const levee_batch *[]){both, levee_batch_take(words, 9)}, 2);
    return 0;
}

/* What rich_graph has not. */
static levee_stream *richer_graph(struct bed *b)
{
    struct levee_record initial[] = {{slice_str("key1"), slice_str("12345678"), 0},
                                     {slice_str("a key of its own"), slice_str("x"), 0}};
    struct levee_map_state_options o = {.timeout_ms = 1000, .initial = initial, .initial_count = 2};
    levee_stream *s = bed_source(b, 2);
    levee_stream *few = levee_map_partitions(s, fn_first_three, NULL);

    bed_sink(b, levee_glom(levee_flat_map_values(s, fn_some_values, NULL)));
    bed_sink(b, levee_partitions(levee_count_by_value(levee_repartition(s, 3)), 2));
    bed_sink(b, levee_combine_by_key(levee_repartition_by(s, 2, place_by_key, NULL), &span));
    bed_sink(b, levee_cogroup(few, s));
    bed_sink(b, levee_join(few, s, LEVEE_FULL_OUTER));
    levee_stream *visits = levee_map_with_state(s, "visits", &o, fn_visit, NULL);
    bed_sink(b, visits);
    bed_sink(b, levee_update_state_by_partition(s, "all",
                                                &(struct levee_state_options){.every_key = true},
                                                fn_tally_all, NULL));
    bed_sink(b, levee_state_snapshots(visits));
    bed_sink(b, levee_transform_with(s, few, fn_everything, NULL));
    return s;
}

static int fn_remind(levee_output *out, levee_state *state, const struct levee_record *in,
                     void *arg)
{
    (void)arg;
    int code = levee_timer_event(state, in->time_ms + 1);
    code = code ? code : levee_timer_processing(state, levee_batch_time(out));
    return code ? code : levee_state_set(state, in->value);
}
static int fn_reminded(levee_output *out, levee_state *state, struct levee_slice key,
                       const struct levee_timer *timer, void *arg)
{
    struct levee_slice value = {NULL, 0};

    (void)arg;
    (void)levee_state_get(state, &value);
    int code = timer->time_ms % 7 ? LEVEE_OK : levee_timer_event(state, 0); /* over: put back */
    return code ? code : levee_emit_copy(out, key, value);
}

/* Everything that knows event time. */
static levee_stream *event_graph(struct bed *b)
{
    const struct levee_event_window sessions = {.gap_ms = 30, .early_ms = 1000, .bounds = true},
                                    slides = {.length_ms = 20,
                                              .slide_ms = 5,
                                              .allowed_lateness_ms = 10,
                                              .late = LEVEE_LATE_SIDE};
    levee_stream *s = bed_source(b, 2);
    levee_stream *t = levee_event_time(
        s, "time", NULL, &(struct levee_event_time_options){.late = LEVEE_LATE_SIDE}, NULL);
    levee_stream *all[] = {t, levee_late(t)};
    levee_stream *both = levee_union(all, 2);
    levee_stream *slide = levee_event_window(both, "slides", &levee_count_values, &slides);
    bed_sink(b, levee_event_window(t, "sessions", &levee_count_values, &sessions));
    bed_sink(b, slide);
    bed_sink(b, levee_late(slide));
    bed_sink(b, levee_process_by_key(both, "reminders", NULL, fn_remind, fn_reminded, NULL));
    return s;
}

static levee_stream *some_graph(struct bed *b, int which)
{
    return which == 2 ? event_graph(b) : which ? richer_graph(b) : rich_graph(b);
}

static void feed_rich(struct bed *b, uint64_t batch, size_t n)
{
    struct levee_record *r = calloc(n, sizeof *r);
    char *text = calloc(n, 64);

    MUST(r && text);
    for (size_t i = 0; i < n; i++) {
        char *t = text + 64 * i;
        size_t k = (size_t)snprintf(t, 20, "key%zu", i % 50);
        size_t v = (size_t)snprintf(t + 20, 44, "some words of batch %llu and %zu",
                                    (unsigned long long)batch, i);
        r[i] = (struct levee_record){slice_of(t, k), slice_of(t + 20, v), (int64_t)i};
    }
    bed_feed(b, 0, 0, r, n / 2);
    bed_feed(b, 0, 1, r + n / 2, n - n / 2);
    free(r);
    free(text);
}

/* Every allocation of a batch and of a gather fails once: NOMEM, nothing leaks, nothing becomes a
 * dead letter. */
START_TEST(memory_that_runs_out_anywhere_is_a_typed_error)
{
    uint64_t k = 1;
    bool hit = true;

    for (; hit; k++) {
        struct bed b;
        int64_t live = mem_live();
        bed_init(&b, 2, 5);
        (void)some_graph(&b, _i);
        b.opt.on_failure = LEVEE_DEAD_LETTER;
        b.opt.retries = 2;
        MUST(bed_open(&b) == LEVEE_OK);
        feed_rich(&b, 1, 60);
        if (_i == 2) { /* what the first batch left is due in the second */
            MUST(bed_run(&b) == LEVEE_OK);
            bed_end_batch(&b);
            feed_rich(&b, 2, 70);
        }
        uint64_t before = mem_count();
        mem_fail_at(k);
        int code = bed_run(&b);
        hit = mem_count() - before >= k;
        mem_fail_at(0);
        if (code) {
            MUST(code == LEVEE_ENOMEM && b.compute.err.code == LEVEE_ENOMEM);
        } else {
            MUST(b.compute.decision_count == 0);
            MUST(!hit); /* the only allocation that may fail silently is a spare list's */
        }
        bed_release(&b);
        MUST(mem_live() == live);
    }
    ck_assert_uint_gt(k, 100);
}
END_TEST

START_TEST(memory_that_runs_out_while_gathering_is_a_typed_error)
{
    for (uint64_t k = 1, hit = 1; hit; k++) {
        struct bed b;
        struct ckpt_slices *slices;
        size_t n;
        int64_t live = mem_live();
        bed_init(&b, 1, 5);
        (void)some_graph(&b, _i);
        MUST(bed_open(&b) == LEVEE_OK);
        feed_rich(&b, 1, 60);
        MUST(bed_run(&b) == LEVEE_OK);
        uint64_t before = mem_count();
        mem_fail_at(k);
        int code = rt_engine_gather(b.engine, &slices, &n, &b.err);
        hit = mem_count() - before >= k;
        mem_fail_at(0);
        MUST(code == (hit ? LEVEE_ENOMEM : LEVEE_OK));
        if (code == LEVEE_OK) {
            rt_engine_free_slices(slices, n);
        }
        bed_release(&b);
        MUST(mem_live() == live);
    }
}
END_TEST

START_TEST(memory_that_runs_out_while_opening_leaks_nothing)
{
    for (uint64_t k = 1, hit = 1; hit; k++) {
        int64_t live = mem_live();
        struct bed b;
        bed_init(&b, 2, 5);
        (void)some_graph(&b, _i);
        uint64_t before = mem_count();
        mem_fail_at(k);
        int code = bed_open(&b);
        code = code ? code : rt_engine_loaded(b.engine, NULL, 0, &b.err);
        hit = mem_count() - before >= k;
        mem_fail_at(0);
        MUST(code == (hit ? LEVEE_ENOMEM : LEVEE_OK));
        bed_release(&b);
        MUST(mem_live() == live);
    }
}
END_TEST

/* Batches of the same size: after the first few nothing is allocated any more (rung 12). */
START_TEST(a_steady_state_allocates_nothing)
{
    struct bed b;
    uint64_t before = 0;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 2);
    levee_stream *words = levee_map_to_i64(levee_flat_map(s, fn_words, NULL), 1);
    levee_stream *sums = levee_reduce_by_key(words, &levee_sum_i64);
    bed_sink(&b, levee_update_state_by_key(sums, "sums", NULL, levee_update_sum_i64, NULL));
    bed_sink(&b, levee_update_state_by_key(s, "log", NULL, fn_log, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int batch = 0; batch < 12; batch++) {
        feed_rich(&b, 1, 2000);
        before = mem_count();
        MUST(bed_run(&b) == LEVEE_OK);
        uint64_t used = mem_count() - before;
        if (batch >= 8) {
            ck_assert_uint_eq(used, 0);
        }
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

START_TEST(too_much_state_is_refused_with_both_sizes)
{
    struct bed b;
    uint64_t keys, bytes;
    char text[64];

    bed_init(&b, 1, 0);
    bed_sink(&b, levee_update_state_by_key(bed_source(&b, 1), "s", NULL, fn_log, NULL));
    b.opt.state_bytes_max = 150000;
    MUST(bed_open(&b) == LEVEE_OK);
    struct levee_record r = {slice_str("a"), slice_str("b"), 0};
    bed_feed(&b, 0, 0, &r, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    bed_end_batch(&b);
    for (int i = 0; i < 2000; i++) {
        r.key = slice_of(text, (size_t)snprintf(text, sizeof text, "key %d", i));
        bed_feed(&b, 0, 0, &r, 1);
    }
    ck_assert_int_eq(bed_run(&b), LEVEE_ELIMIT);
    rt_engine_state_size(b.engine, &keys, &bytes);
    ck_assert_uint_eq(keys, 2001);
    ck_assert_uint_gt(bytes, 2001 * 64);
    ck_assert_str_eq(b.compute.err.expected, "at most 150000 bytes");
    (void)snprintf(text, sizeof text, "%llu bytes", (unsigned long long)bytes);
    ck_assert_str_eq(b.compute.err.found, text);
    bed_release(&b);
}
END_TEST

/* ---- batches side by side ---- */

/* A batch's output stays as it is while later batches change the same state. */
START_TEST(outputs_outlive_later_batches)
{
    enum { BATCHES = 5 };
    struct bed b;
    struct rt_compute done[BATCHES];
    struct levee_record r = {slice_str("key"), slice_str("value"), 0};
    char want[64];

    bed_init(&b, 2, 0);
    bed_sink(&b, levee_update_state_by_key(bed_source(&b, 1), "s", NULL, fn_log, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 0, &r, 1);
    for (int i = 0; i < BATCHES; i++) {
        MUST(bed_run(&b) == LEVEE_OK);
        done[i] = b.compute;
        b.compute = (struct rt_compute){0};
    }
    for (int i = 0; i < BATCHES; i++) {
        b.compute = done[i];
        size_t n = (size_t)snprintf(want, sizeof want, "key=");
        for (int k = 0; k <= i; k++) {
            n += (size_t)snprintf(want + n, sizeof want - n, "value1");
        }
        ck_assert_str_eq(bed_show_sorted(&b, 0, shown, sizeof shown), want);
        rt_compute_release(b.engine, &b.compute);
    }
    b.compute = (struct rt_compute){0};
    bed_release(&b);
}
END_TEST

START_TEST(foreach_sees_partitions)
{
    struct bed b;
    struct levee_record r[] = {{slice_str("a"), slice_str("1"), 5}, {slice_str("b"), {0}, 6}};
    size_t n;

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, bed_source(&b, 3));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 2, r, 2);
    bed_feed(&b, 0, 0, r, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    struct levee_batch batch = {.data = bed_output(&b, out)};
    ck_assert_uint_eq(levee_batch_partitions(&batch), 3);
    ck_assert_uint_eq(levee_batch_count(&batch), 3);
    const struct levee_record *got = levee_batch_records(&batch, 2, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert(slice_eq(got[1].key, slice_str("b")) && got[1].time_ms == 6);
    (void)levee_batch_records(&batch, 1, &n);
    ck_assert_uint_eq(n, 0);
    ck_assert_ptr_null(levee_batch_records(&batch, 3, &n));
    ck_assert_uint_eq(n, 0);
    bed_release(&b);
}
END_TEST

/* The machine dies while a batch computes (simulated, at a hundred points of the schedule): what
 * had begun is given back without running on. */
static void never(struct rt_compute *c)
{
    (void)c;
}

START_TEST(an_engine_is_closed_in_the_middle_of_a_batch)
{
    for (unsigned steps = 0; steps < 40; steps++) {
        struct bed b;
        int64_t live = mem_live();
        bed_init(&b, 3, 11 + steps);
        (void)rich_graph(&b);
        MUST(bed_open(&b) == LEVEE_OK);
        feed_rich(&b, 1, 40);
        struct bed_task go = {.task = {.run = bed_begin}, .bed = &b};
        b.compute = (struct rt_compute){.inputs = b.inputs, .done = never};
        b.io->ops->lane_post(b.loop, &go.task);
        for (unsigned i = 0; i < steps; i++) {
            (void)io_sim_step(b.io);
        }
        io_sim_crash(b.io);
        b.io->ops->lane_close(b.loop);
        rt_engine_stop(b.engine);
        rt_compute_release(b.engine, &b.compute);
        b.compute = (struct rt_compute){0};
        rt_engine_close(b.engine);
        b.engine = NULL;
        bed_drop_input(&b);
        rt_graph_free(b.graph);
        for (size_t s = 0; s < BED_SOURCES; s++) {
            mem_free(b.blocks[s]);
        }
        io_free(b.io);
        MUST(mem_live() == live);
    }
}
END_TEST

/* A record that does not parse is an error, not the end of the block. */
START_TEST(a_block_cut_short_is_not_half_computed)
{
    struct bed b;
    static const char *const text[] = {"abc"};

    bed_init(&b, 1, 0);
    bed_sink(&b, bed_source(&b, 1));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed_text(&b, text, 1);
    b.blocks[0][0]->payload.len -= 2;
    ck_assert_int_eq(bed_run(&b), LEVEE_EWAL_CORRUPT);
    ck_assert_str_eq(b.compute.err.expected, "1 records");
    ck_assert_str_eq(b.compute.err.found, "0");
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_exec");
    TCase *t = tcase_create("memory");

    tcase_add_loop_test(t, memory_that_runs_out_anywhere_is_a_typed_error, 0, 3);
    tcase_add_loop_test(t, memory_that_runs_out_while_gathering_is_a_typed_error, 0, 3);
    tcase_add_loop_test(t, memory_that_runs_out_while_opening_leaks_nothing, 0, 3);
    tcase_add_test(t, a_steady_state_allocates_nothing);
    tcase_add_test(t, too_much_state_is_refused_with_both_sizes);
    suite_add_tcase(s, t);
    t = tcase_create("batches");
    tcase_add_test(t, outputs_outlive_later_batches);
    tcase_add_test(t, foreach_sees_partitions);
    tcase_add_test(t, an_engine_is_closed_in_the_middle_of_a_batch);
    tcase_add_test(t, a_block_cut_short_is_not_half_computed);
    suite_add_tcase(s, t);
    return suite_main(s);
}
