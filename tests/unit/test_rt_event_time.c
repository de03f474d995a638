/*
 * Watermarks: what they are in each batch, who counts where streams meet, what becomes of late
 * records, and what a replay sees. Batch k has time 1000 k. A record's value is its event time, as
 * text; its key is one letter.
 */
#include "runtime/exec.h"
#include "tests/unit/test_rt_functions.h"

#define NONE INT64_MIN

static int text_time(const struct levee_record *in, int64_t *ret_time_ms, void *arg)
{
    char text[32];

    (void)arg;
    MUST(in->value.len < sizeof text);
    memcpy(text, in->value.data, in->value.len);
    text[in->value.len] = 0;
    char *end;
    *ret_time_ms = strtoll(text, &end, 10);
    return *end ? -7 : 0; /* not a time */
}

/* "a=5 b=7": into partition 0 of a source. */
static void feed(struct bed *b, size_t source, const char *pairs)
{
    for (const char *p = pairs; *p;) {
        size_t len = strcspn(p, " ");
        struct levee_record r = {slice_of(p, 1), slice_of(p + 2, len - 2), 0};
        bed_feed(b, source, 0, &r, 1);
        p += len + (p[len] == ' ');
    }
}

static void run(struct bed *b)
{
    if (bed_run(b) != LEVEE_OK) {
        ck_abort_msg("%s, %s", b->compute.err.what, b->compute.err.found);
    }
}

static char shown[2048];

/* The watermark that a batch at this time would have. */
static int64_t reading(const struct bed *b, const levee_stream *s, int64_t time_ms)
{
    int64_t all[8];

    MUST(b->engine->clocks.count <= ARRAY_LEN(all) && s->clock);
    rt_engine_watermarks(b->engine, time_ms, all);
    return all[s->clock - 1];
}

static levee_stream *timed(struct bed *b, const char *uid, struct levee_event_time_options o)
{
    return levee_event_time(bed_source(b, 2), uid, text_time, &o, NULL);
}

START_TEST(the_watermark_is_the_highest_time_before_less_the_lateness)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = timed(&b, "t", (struct levee_event_time_options){.lateness_ms = 10});
    size_t out = bed_sink(&b, s);
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert_int_eq(reading(&b, s, 1000), NONE);
    feed(&b, 0, "a=100 b=70 c=90");
    run(&b); /* below nothing: none is late */
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "a=100 b=70 c=90|");
    ck_assert_int_eq(bed_output(&b, out)->parts[0].items[1].time_ms, 70);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 2000), 90);
    feed(&b, 0, "a=20");
    run(&b); /* going back changes nothing */
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 999999), 90);
    feed(&b, 0, "a=-5000 a=101");
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 4000), 91);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 4000)); /* nobody waits for it */
    bed_release(&b);
}
END_TEST

/* By the watermark of the batch, wherever in it a record comes. */
START_TEST(late_records_go_where_the_policy_says)
{
    for (enum levee_late policy = LEVEE_LATE_DEFAULT; policy <= LEVEE_LATE_DEAD_LETTER; policy++) {
        struct bed b;
        size_t side = SIZE_MAX;

        bed_init(&b, 2, 0);
        b.opt.on_failure = LEVEE_DEAD_LETTER;
        levee_stream *s = timed(&b, "t", (struct levee_event_time_options){.late = policy});
        size_t out = bed_sink(&b, s);
        if (policy == LEVEE_LATE_SIDE) { /* two of them, that change what they are given */
            bed_sink(&b, levee_map_to_i64(levee_late(s), 1));
            bed_sink(&b, levee_map_to_i64(levee_late(s), 2));
            side = bed_sink(&b, levee_late(s));
        }
        MUST(bed_open(&b) == LEVEE_OK);
        feed(&b, 0, "a=100");
        run(&b);
        bed_end_batch(&b);
        feed(&b, 0, "b=200 c=99 d=100 e=x f=-1");
        run(&b);
        bool all = policy == LEVEE_LATE_DEFAULT;
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown),
                         all ? "b=200 c=99 d=100 f=-1|" : "b=200 d=100|");
        if (side != SIZE_MAX) {
            ck_assert_str_eq(bed_show(&b, side, shown, sizeof shown), "c=99 f=-1|");
            ck_assert_int_eq(bed_output(&b, side)->parts[0].items[1].time_ms, -1);
            ck_assert_str_eq(bed_show(&b, side - 1, shown, sizeof shown), "c=2 f=2|");
            ck_assert_str_eq(bed_show(&b, side - 2, shown, sizeof shown), "c=1 f=1|");
        }
        bool letters = policy == LEVEE_LATE_DEAD_LETTER;
        ck_assert_uint_eq(b.compute.decision_count, letters ? 3 : 1); /* e has no time at all */
        if (letters) {
            static const int codes[] = {LEVEE_ELATE, -7, LEVEE_ELATE};
            static const uint64_t places[] = {1, 3, 4};
            for (size_t i = 0; i < 3; i++) {
                ck_assert_int_eq(b.compute.decisions[i].code, codes[i]);
                ck_assert_uint_eq(b.compute.decisions[i].index, places[i]);
                ck_assert_str_eq(b.compute.decisions[i].uid, "t");
            }
        }
        bed_end_batch(&b);
        ck_assert_uint_eq(rt_engine_late(b.engine), all ? 0 : 2);
        ck_assert_int_eq(reading(&b, s, 3000), 200);
        bed_release(&b);
    }
}
END_TEST

/* Many at once: the side is handed on in vectors, in order. */
START_TEST(a_side_stream_of_thousands_keeps_its_order)
{
    struct bed b;
    static struct levee_record many[3000];

    bed_init(&b, 2, 0);
    levee_stream *s =
        levee_event_time(bed_source(&b, 1), "t", NULL,
                         &(struct levee_event_time_options){.late = LEVEE_LATE_SIDE}, NULL);
    bed_sink(&b, s);
    size_t side = bed_sink(&b, levee_late(s));
    MUST(bed_open(&b) == LEVEE_OK);
    for (size_t i = 0; i < ARRAY_LEN(many); i++) {
        many[i] = (struct levee_record){slice_str("k"), slice_str("v"), i % 3 ? (int64_t)i : -9};
    }
    bed_feed(&b, 0, 0, many, ARRAY_LEN(many));
    run(&b);
    bed_end_batch(&b);
    bed_feed(&b, 0, 0, many, ARRAY_LEN(many));
    run(&b);
    const struct rt_records *late = &bed_output(&b, side)->parts[0];
    ck_assert_uint_eq(late->count, 2999); /* all but the last: 2999 % 3 is 2 */
    for (size_t i = 0; i < late->count; i++) {
        ck_assert_int_eq(late->items[i].time_ms, i % 3 ? (int64_t)i : -9);
    }
    ck_assert_uint_eq(b.compute.output_records[0], 1);
    bed_release(&b);
}
END_TEST

/* ---- where streams meet ---- */

static const struct levee_event_window tens = {.length_ms = 10};

START_TEST(the_lowest_watermark_counts_unless_it_is_idle)
{
    struct bed b;
    const struct levee_event_time_options patient = {.idle_ms = 0}, idler = {.idle_ms = 3000};

    bed_init(&b, 2, 0);
    levee_stream *x = timed(&b, "x", patient), *y = timed(&b, "y", idler);
    levee_stream *both[] = {x, y};
    levee_stream *w = levee_event_window(levee_union(both, 2), "w", &levee_count_values, &tens);
    size_t out = bed_sink(&b, w);
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=50");
    run(&b); /* 1 */
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, x, 2000), 50);
    ck_assert_int_eq(reading(&b, y, 2000), NONE);
    ck_assert_int_eq(reading(&b, w, 2000), NONE); /* y may still come with anything … */
    ck_assert_int_eq(reading(&b, w, 3999), NONE); /* … from the first batch on, for idle_ms */
    ck_assert_int_eq(reading(&b, w, 4000), 50);
    feed(&b, 0, "a=61");
    feed(&b, 1, "b=20 c=32");
    run(&b); /* 2 */
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, w, 3000), 32);
    ck_assert(rt_engine_wants_empty_batch(b.engine, 3000)); /* b's window is complete */
    run(&b);                                                /* 3 */
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "b=1");
    bed_end_batch(&b);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 4999));
    ck_assert(rt_engine_wants_empty_batch(b.engine, 5000)); /* y is idle now */
    b.batch = 4;
    run(&b); /* 5 */
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "a=1 c=1");
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, w, 6000), 61);
    feed(&b, 1, "d=40 e=59 f=60"); /* y is back, and its own watermark is 32 */
    run(&b);                       /* 6 */
    bed_end_batch(&b);
    ck_assert_uint_eq(rt_engine_late(b.engine), 2); /* d and e: their windows are over */
    ck_assert_int_eq(reading(&b, y, 7000), 60);
    ck_assert_int_eq(reading(&b, w, 7000), 61); /* it never goes back */
    feed(&b, 1, "g=80");
    run(&b); /* 7 */
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, w, 8000), 61); /* x says so */
    bed_release(&b);
}
END_TEST

/* All idle: nobody holds anybody up, so the highest promise counts. */
START_TEST(of_streams_that_are_all_idle_the_highest_counts)
{
    struct bed b;
    const struct levee_event_time_options idler = {.idle_ms = 2000};

    bed_init(&b, 1, 0);
    levee_stream *x = timed(&b, "x", idler), *y = timed(&b, "y", idler);
    levee_stream *both[] = {x, y};
    levee_stream *w = levee_event_window(levee_union(both, 2), "w", &levee_count_values, &tens);
    bed_sink(&b, w);
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=55");
    feed(&b, 1, "b=25");
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, w, 2999), 25);
    ck_assert_int_eq(reading(&b, w, 3000), 55);
    bed_release(&b);
}
END_TEST

START_TEST(an_idle_clock_goes_with_the_batch_time)
{
    struct bed b;
    const struct levee_event_time_options o = {
        .idle_ms = 2000, .idle_clock = true, .lateness_ms = 500};

    bed_init(&b, 1, 0);
    levee_stream *x = timed(&b, "x", o);
    levee_stream *w = levee_event_window(x, "w", &levee_count_values,
                                         &(struct levee_event_window){.length_ms = 1000});
    size_t out = bed_sink(&b, w);
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=900");
    run(&b); /* 1 */
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, x, 2999), 400);
    ck_assert_int_eq(reading(&b, x, 3000), 2500);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 2999));
    ck_assert(rt_engine_wants_empty_batch(b.engine, 3000));
    b.batch = 2;
    run(&b);
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "a=1");
    bed_end_batch(&b);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 1000000)); /* nothing is kept: idle is free */
    feed(&b, 0, "b=2600");
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, x, 5000), 3500); /* no longer idle, and not back */
    bed_release(&b);
}
END_TEST

/* It still counts: beside a stream that is behind it, and before one that is ahead. */
START_TEST(an_idle_clock_is_no_idle_stream)
{
    struct bed b;
    const struct levee_event_time_options clock = {.idle_ms = 2000, .idle_clock = true};

    bed_init(&b, 1, 0);
    levee_stream *x = timed(&b, "x", clock);
    levee_stream *y = timed(&b, "y", (struct levee_event_time_options){0});
    levee_stream *both[] = {x, y};
    levee_stream *w = levee_event_window(levee_union(both, 2), "w", &levee_count_values, &tens);
    bed_sink(&b, w);
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=5");
    feed(&b, 1, "b=4000");
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, w, 2999), 5);
    ck_assert_int_eq(reading(&b, w, 3000), 3000);
    ck_assert_int_eq(reading(&b, w, 9000), 4000);
    bed_release(&b);
}
END_TEST

/* What a window gives is due by the watermark; for the next window it is in time all the same. */
START_TEST(windows_of_windows_lose_nothing)
{
    struct bed b;
    const struct levee_event_window hundreds = {.length_ms = 100};

    bed_init(&b, 2, 0);
    levee_stream *inner = levee_event_window(timed(&b, "t", (struct levee_event_time_options){0}),
                                             "inner", &levee_count_values, &tens);
    levee_stream *outer = levee_event_window(inner, "outer", &levee_sum_i64, &hundreds);
    size_t first = bed_sink(&b, inner), second = bed_sink(&b, outer);
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=1 a=2 a=11 a=99 a=100");
    run(&b); /* 1 */
    bed_end_batch(&b);
    feed(&b, 0, "a=500");
    run(&b); /* 2: the watermark is 100 */
    ck_assert_str_eq(bed_show_sorted(&b, first, shown, sizeof shown), "a=1 a=1 a=2");
    ck_assert_uint_eq(b.compute.output_records[second], 0);
    bed_end_batch(&b);
    ck_assert(rt_engine_event_due(b.engine, 3000));
    run(&b);                                                                  /* 3 */
    ck_assert_str_eq(bed_show_sorted(&b, first, shown, sizeof shown), "a=1"); /* [100, 110) */
    ck_assert_str_eq(bed_show_sorted(&b, second, shown, sizeof shown), "a=4");
    bed_end_batch(&b);
    run(&b); /* 4 */
    ck_assert_str_eq(bed_show_sorted(&b, second, shown, sizeof shown), "a=1");
    bed_end_batch(&b);
    ck_assert(!rt_engine_wants_empty_batch(b.engine, 5000)); /* 500 waits for its successor */
    ck_assert_uint_eq(rt_engine_late(b.engine), 0);
    bed_release(&b);
}
END_TEST

/* ---- what a replay sees ---- */

/* A logged watermark is taken as it is, even where it would be read differently now. */
START_TEST(a_replay_is_given_the_watermark_that_was_logged)
{
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = timed(&b, "t", (struct levee_event_time_options){.late = LEVEE_LATE_SIDE});
    bed_sink(&b, s);
    size_t side = bed_sink(&b, levee_late(s));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=100");
    run(&b);
    bed_end_batch(&b);
    int64_t logged = 40;
    b.compute.watermarks = &logged;
    feed(&b, 0, "a=50 b=39 c=99");
    run(&b);
    ck_assert_str_eq(bed_show(&b, side, shown, sizeof shown), "b=39|");
    bed_end_batch(&b);
    logged = 150; /* above anything that was seen: another rule may have read it */
    b.compute.watermarks = &logged;
    feed(&b, 0, "a=149 b=150");
    run(&b);
    ck_assert_str_eq(bed_show(&b, side, shown, sizeof shown), "a=149|");
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 9000), 150);
    logged = 120;
    b.compute.watermarks = &logged;
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 9000), 150); /* it never goes back */
    bed_release(&b);
}
END_TEST

/* ---- the ends of time ---- */

START_TEST(times_out_of_range_are_failed_calls_and_the_ends_do_not_overflow)
{
    struct bed b;
    const struct levee_event_window slide = {.length_ms = (uint64_t)1 << 40,
                                             .slide_ms = 3u << 28,
                                             .allowed_lateness_ms = (uint64_t)1 << 40};
    const struct levee_event_window session = {.gap_ms = (uint64_t)1 << 40, .early_ms = UINT32_MAX};

    bed_init(&b, 2, 0);
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    levee_stream *s = timed(&b, "t", (struct levee_event_time_options){.lateness_ms = 5});
    bed_sink(&b, levee_event_window(s, "session", &levee_count_values, &session));
    size_t out = bed_sink(&b, levee_event_window(s, "tens", &levee_count_values, &tens));
    ck_assert_ptr_nonnull(levee_event_window(s, "slide", &levee_count_values, &slide));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0,
         "a=9223372036854775807 b=-9223372036854775808 c=2305843009213693953 "
         "d=-2305843009213693953 e=x");
    run(&b);
    ck_assert_uint_eq(b.compute.decision_count, 5);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 2000), NONE);
    feed(&b, 0, "a=-2305843009213693952");
    run(&b);
    ck_assert_uint_eq(b.compute.decision_count, 0);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 3000), -2305843009213693952 - 5);
    feed(&b, 0, "b=2305843009213693952");
    run(&b);
    bed_end_batch(&b);
    ck_assert_int_eq(reading(&b, s, 4000), 2305843009213693952 - 5);
    ck_assert(rt_engine_wants_empty_batch(b.engine, 4000));
    run(&b);
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "a=1");
    bed_end_batch(&b);
    feed(&b, 0, "z=0");
    run(&b); /* everything is late now */
    ck_assert_uint_eq(b.compute.output_records[out], 0);
    bed_end_batch(&b);
    ck_assert_uint_eq(rt_engine_late(b.engine), 3);
    bed_release(&b);
}
END_TEST

/* A map may give its records any time at all: windows count what is out of range as its end. */
static int fn_any_time(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_record r = *in;

    (void)arg;
    r.time_ms = in->key.data[0] == 'a' ? INT64_MAX : INT64_MIN;
    return levee_emit_record(out, &r);
}
START_TEST(windows_survive_times_that_a_function_made)
{
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s =
        levee_map(timed(&b, "t", (struct levee_event_time_options){0}), fn_any_time, NULL);
    levee_stream *w =
        levee_event_window(s, "w", &levee_count_values, &(struct levee_event_window){.gap_ms = 10});
    bed_sink(&b, w);
    size_t out = bed_sink(&b, levee_event_window(s, "tens", &levee_count_values, &tens));
    MUST(bed_open(&b) == LEVEE_OK);
    feed(&b, 0, "a=1 b=1");
    run(&b);
    bed_end_batch(&b);
    run(&b); /* the watermark is 1: below it lies only the lowest end */
    ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown), "b=1");
    bed_end_batch(&b);
    bed_release(&b);
}
END_TEST

/* ---- what is refused when the graph is built ---- */

static int fn_nothing(levee_output *out, levee_state *state, const struct levee_record *in,
                      void *arg)
{
    (void)out;
    (void)state;
    (void)in;
    (void)arg;
    return 0;
}

static void refused(struct bed *b, const levee_stream *s, const char *why)
{
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(b->graph->error.what, why) != NULL, "%s: %s", why, b->graph->error.what);
    b->graph->error = (struct levee_error){0};
}

START_TEST(graphs_without_event_time_are_refused)
{
    struct bed b;
    const struct levee_event_window both = {.length_ms = 10, .gap_ms = 10}, none = {0},
                                    long_ = {.length_ms = ((uint64_t)1 << 40) + 1},
                                    many = {.length_ms = 40970, .slide_ms = 10};
    const struct levee_event_time_options clock = {.idle_clock = true}, odd = {.late = 9};

    bed_init(&b, 1, 0);
    levee_stream *raw = bed_source(&b, 1);
    levee_stream *s = timed(&b, "t", (struct levee_event_time_options){0});
    levee_stream *mixed[] = {s, raw};
    refused(&b, levee_event_window(raw, "w", &levee_count_values, &tens), "source0");
    refused(&b, levee_event_window(levee_union(mixed, 2), "w", &levee_count_values, &tens),
            "source0");
    refused(&b,
            levee_event_window(levee_reduce_by_key(s, &levee_count_values), "w",
                               &levee_count_values, &tens),
            "reduce_by_key");
    levee_stream *p = levee_process_by_key(raw, "p", NULL, fn_nothing, NULL, NULL);
    ck_assert_ptr_nonnull(p);
    refused(&b, levee_event_window(p, "w", &levee_count_values, &tens), "source0");
    refused(&b, levee_event_window(s, "w", &levee_count_values, &both), "either");
    refused(&b, levee_event_window(s, "w", &levee_count_values, &none), "either");
    refused(&b, levee_event_window(s, "w", &levee_count_values, &long_), "either");
    refused(&b, levee_event_window(s, "w", &levee_count_values, &many), "4096");
    refused(&b, levee_event_window(s, "w", NULL, &tens), "reducer");
    refused(&b, levee_event_window(s, "t", &levee_count_values, &tens), "twice");
    refused(&b, levee_event_time(raw, "u", NULL, &clock, NULL), "idle_clock");
    refused(&b, levee_event_time(raw, "u", NULL, &odd, NULL), "at most");
    refused(&b, levee_late(s), "LEVEE_LATE_SIDE");
    refused(&b, levee_late(raw), "LEVEE_LATE_SIDE");
    refused(&b, levee_state_snapshots(s), "no state");
    ck_assert_ptr_nonnull(levee_event_window(levee_map_to_i64(levee_repartition(s, 3), 1), "w",
                                             &levee_sum_i64, &tens));
    b.engine = NULL;
    bed_release(&b);
}
END_TEST

/* ---- storing ---- */

START_TEST(clocks_come_back_and_other_lengths_are_refused)
{
    struct bed b[3];
    struct levee_event_window other = {.length_ms = 10, .slide_ms = 5};
    struct buf bytes = {0};
    struct levee_error err = {0};
    levee_stream *s[3];

    for (int i = 0; i < 3; i++) {
        bed_init(&b[i], 1, 0);
        s[i] = timed(
            &b[i], "t",
            (struct levee_event_time_options){
                .lateness_ms = 3, .idle_ms = 3000, .idle_clock = true, .late = LEVEE_LATE_DROP});
        bed_sink(&b[i],
                 levee_event_window(s[i], "w", &levee_count_values, i == 2 ? &other : &tens));
        MUST(bed_open(&b[i]) == LEVEE_OK);
    }
    feed(&b[0], 0, "a=30");
    run(&b[0]);
    bed_end_batch(&b[0]);
    feed(&b[0], 0, "a=26");
    run(&b[0]);
    bed_end_batch(&b[0]);
    rt_engine_encode_clocks(b[0].engine, &bytes);
    ck_assert_int_eq(rt_engine_decode_clocks(b[1].engine, buf_view(&bytes), &err), LEVEE_OK);
    ck_assert_int_eq(reading(&b[1], s[1], 3000), 27);
    ck_assert_int_eq(reading(&b[1], s[1], 4999), 27); /* it was heard in the second batch */
    ck_assert_int_eq(reading(&b[1], s[1], 5000), 4997);
    ck_assert_uint_eq(rt_engine_late(b[1].engine), 1);
    ck_assert_int_eq(rt_engine_decode_clocks(b[2].engine, buf_view(&bytes), &err),
                     LEVEE_ESTATE_VERSION);
    ck_assert_ptr_nonnull(strstr(err.expected, "slide 10 ms"));
    ck_assert_ptr_nonnull(strstr(err.found, "slide 5 ms"));
    for (size_t n = 0; n < bytes.len; n++) { /* cut anywhere */
        ck_assert_int_eq(rt_engine_decode_clocks(b[1].engine, slice_of(bytes.data, n), &err),
                         LEVEE_ECKPT_CORRUPT);
    }
    buf_release(&bytes);
    for (int i = 0; i < 3; i++) {
        bed_release(&b[i]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_event_time");
    TCase *t = tcase_create("watermarks");

    tcase_add_test(t, the_watermark_is_the_highest_time_before_less_the_lateness);
    tcase_add_test(t, late_records_go_where_the_policy_says);
    tcase_add_test(t, a_side_stream_of_thousands_keeps_its_order);
    tcase_add_test(t, the_lowest_watermark_counts_unless_it_is_idle);
    tcase_add_test(t, of_streams_that_are_all_idle_the_highest_counts);
    tcase_add_test(t, an_idle_clock_goes_with_the_batch_time);
    tcase_add_test(t, an_idle_clock_is_no_idle_stream);
    tcase_add_test(t, windows_of_windows_lose_nothing);
    tcase_add_test(t, a_replay_is_given_the_watermark_that_was_logged);
    tcase_add_test(t, times_out_of_range_are_failed_calls_and_the_ends_do_not_overflow);
    tcase_add_test(t, windows_survive_times_that_a_function_made);
    tcase_add_test(t, graphs_without_event_time_are_refused);
    tcase_add_test(t, clocks_come_back_and_other_lengths_are_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
