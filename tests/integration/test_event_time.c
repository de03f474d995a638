/*
 * Event time from the outside, on the simulated machine: what comes to a sink through kills and
 * power losses, with checkpoints and without, what a replay sees, when a batch is run without
 * input, and what a start refuses. What windows and timers mean is in tests/unit/test_rt_event_*
 * and test_rt_timers; here expected sessions are made from what was pushed, by sorting it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "tests/integration/place.h"
#include "tests/support/suite.h"

#define LINES    512
#define INTERVAL 10

/* What a sink has, a line for each record. */
struct lines {
    struct place place;
    char lines[LINES][64];
    size_t count;
};

static void take(void *arg, const struct levee_token *token, const struct levee_record *r)
{
    struct lines *to = arg;
    struct levee_event_window_info w;

    (void)token;
    ck_assert_uint_lt(to->count, LINES);
    char *line = to->lines[to->count++];
    if (levee_event_window_of(r->value, &w)) {
        (void)snprintf(line, sizeof to->lines[0], "%.*s [%" PRId64 ",%" PRId64 ") %d: %" PRId64,
                       (int)r->key.len, (const char *)r->key.data, w.start_ms, w.end_ms,
                       (int)w.firing, levee_i64(w.value));
    } else {
        (void)snprintf(line, sizeof to->lines[0], "%.*s %" PRId64, (int)r->key.len,
                       (const char *)r->key.data, r->time_ms);
    }
}

/* ---- the job ---- */

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source, *other;
    struct lines out, late;
    struct levee_event_time_options time;
    struct levee_event_window window; /* no lengths: none */
    bool plain;                       /* no event time at all */
    int64_t timer_ms;                 /* > 0: records set a timer of processing time there */
    struct levee_options o;
    uint64_t pushed, other_pushed;
    uint32_t batches; /* told by the listener, over all lives, replays too */
};

static int set_timer(levee_output *out, levee_state *state, const struct levee_record *in,
                     void *arg)
{
    const struct job *j = arg;

    (void)out;
    (void)in;
    return levee_timer_processing(state, levee_batch_time(out) + j->timer_ms);
}
static int on_timer(levee_output *out, levee_state *state, struct levee_slice key,
                    const struct levee_timer *timer, void *arg)
{
    (void)arg;
    (void)state;
    ck_assert(timer->processing && timer->time_ms <= levee_batch_time(out));
    return levee_emit_copy(out, key, (struct levee_slice){(const uint8_t *)"timer", 5});
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->source = levee_queue_source(ctx, "in", 2);
    j->other = levee_queue_source(ctx, "other", 1);
    if (j->plain) {
        (void)levee_sink(j->source, "place", &place_ops, &j->out.place);
        (void)levee_sink(j->other, "late", &place_ops, &j->late.place);
        return levee_context_status(ctx, err);
    }
    levee_stream *a = levee_event_time(j->source, "time", NULL, &j->time, NULL);
    levee_stream *b = levee_event_time(j->other, "other-time", NULL, &j->time, NULL);
    levee_stream *s = levee_union(((levee_stream *[]){a, b}), 2);
    if (j->timer_ms) {
        s = levee_process_by_key(s, "process", NULL, set_timer, on_timer, j);
    } else if (j->window.gap_ms || j->window.length_ms) {
        s = levee_event_window(s, "windows", &levee_count_values, &j->window);
    }
    (void)levee_sink(s, "place", &place_ops, &j->out.place);
    (void)levee_sink(j->time.late == LEVEE_LATE_SIDE ? levee_late(a) : levee_late(s), "late",
                     &place_ops, &j->late.place);
    return levee_context_status(ctx, err);
}

static int build_without_late(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->source = levee_queue_source(ctx, "in", 2);
    levee_stream *a = levee_event_time(j->source, "time", NULL, &j->time, NULL);
    levee_stream *s = a;
    if (j->timer_ms) {
        s = levee_process_by_key(a, "process", NULL, set_timer, on_timer, j);
    } else if (j->window.gap_ms || j->window.length_ms) {
        s = levee_event_window(a, "windows", &levee_count_values, &j->window);
    }
    (void)levee_sink(s, "place", &place_ops, &j->out.place);
    return levee_context_status(ctx, err);
}

static void on_batch(void *arg, const struct levee_batch_info *info)
{
    struct job *j = arg;

    j->batches += !info->replayed;
}
static const struct levee_listener counting = {.version = 1, .batch_completed = on_batch};

static void quiet(void *arg, int level, const char *line)
{
    (void)arg;
    (void)level;
    (void)line;
}

static struct job *job_new(uint64_t seed)
{
    struct job *j = calloc(1, sizeof *j);

    ck_assert_ptr_nonnull(j);
    ck_assert_int_eq(levee_sim_new(&j->sim, &(struct levee_sim_options){.seed = seed}, NULL),
                     LEVEE_OK);
    j->out.place = (struct place){.take = take, .arg = &j->out};
    j->late.place = (struct place){.take = take, .arg = &j->late};
    j->window = (struct levee_event_window){.gap_ms = 100, .bounds = true, .late = LEVEE_LATE_SIDE};
    j->o = (struct levee_options){.directory = "state",
                                  .batch_interval_ms = INTERVAL,
                                  .segment_bytes = 64 << 10,
                                  .workers = 2,
                                  .checkpoint_batches = 2,
                                  .on_failure = LEVEE_DEAD_LETTER,
                                  .listener = &counting,
                                  .listener_arg = j,
                                  .program_id = "test",
                                  .log = quiet,
                                  .testing = j->sim};
    return j;
}

static int try_start(struct job *j, levee_setup_fn setup, struct levee_error *err)
{
    int code = levee_get_or_create(&j->ctx, &j->o, setup, j, err);

    code = code ? code : levee_start(j->ctx, err);
    if (code == LEVEE_OK) {
        j->pushed = levee_queue_durable(j->source);
        j->other_pushed = setup == build ? levee_queue_durable(j->other) : 0;
    }
    return code;
}

static void start(struct job *j, levee_setup_fn setup)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(try_start(j, setup, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
}

/* One record, of key 'a' + k, and two ticks. */
static void push(struct job *j, char key, int64_t time_ms)
{
    struct levee_record r = {{(const uint8_t *)&key, 1}, {(const uint8_t *)"v", 1}, time_ms};

    ck_assert_int_eq(levee_queue_push(j->source, &r, 1, j->pushed + 1, NULL), LEVEE_OK);
    j->pushed++;
    levee_sim_run_ms(j->sim, 2 * INTERVAL);
}

static void push_other(struct job *j, char key, int64_t time_ms)
{
    struct levee_record r = {{(const uint8_t *)&key, 1}, {(const uint8_t *)"v", 1}, time_ms};

    ck_assert_int_eq(levee_queue_push(j->other, &r, 1, j->other_pushed + 1, NULL), LEVEE_OK);
    j->other_pushed++;
    levee_sim_run_ms(j->sim, 2 * INTERVAL);
}

static void drain(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(levee_drain(j->ctx, 0, &err) == LEVEE_OK && levee_await(j->ctx, &err) == LEVEE_OK,
                  "%s", levee_error_format(&err, line, sizeof line));
}

/* The context is gone from one moment to the next; what it had not synced may be, too. */
static void die(struct job *j, bool power)
{
    levee_free(j->ctx);
    j->ctx = NULL;
    if (power) {
        levee_sim_power_loss(j->sim);
    } else {
        levee_sim_kill(j->sim);
    }
}

static void end(struct job *j)
{
    levee_free(j->ctx);
    place_release(&j->out.place);
    place_release(&j->late.place);
    levee_sim_free(j->sim);
    free(j);
}

static int by_line(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void expect_lines(struct lines *p, const char *const *want, size_t n)
{
    qsort(p->lines, p->count, sizeof p->lines[0], by_line);
    for (size_t i = 0; i < p->count || i < n; i++) {
        ck_assert_str_eq(i < p->count ? p->lines[i] : "nothing", i < n ? want[i] : "nothing");
    }
}
#define EXPECT(lines, ...)                                                                         \
    expect_lines(lines, ((const char *const[]){__VA_ARGS__}),                                      \
                 ARRAY_LEN(((const char *const[]){__VA_ARGS__})))

/* ---- sessions through deaths ---- */

#define PUSHES 60

static int by_time(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void expected_sessions(const char *keys, const int64_t *times, int64_t watermark,
                              struct lines *ret)
{
    for (int key = 'a'; key <= 'c'; key++) {
        int64_t own[PUSHES];
        size_t n = 0, first = 0;
        for (size_t i = 0; i < PUSHES; i++) {
            if (keys[i] == key) {
                own[n++] = times[i];
            }
        }
        qsort(own, n, sizeof *own, by_time);
        for (size_t i = 0; i < n; i++) {
            bool last = i + 1 == n || own[i + 1] - own[i] >= 100;
            if (last && own[i] + 100 <= watermark) {
                (void)snprintf(ret->lines[ret->count++], 64, "%c [%" PRId64 ",%" PRId64 ") 0: %zu",
                               key, own[first], own[i] + 100, i + 1 - first);
            }
            first = last ? i + 1 : first;
        }
    }
}

/* Process death and power loss (faults 1, 2, 20) between any two pushes; the watermark comes from
 * the checkpoint, from the log, or from both. _i: who dies how, and how often there are
 * checkpoints.
 */
START_TEST(f20_sessions_come_once_through_a_death_after_every_push)
{
    struct job *j = job_new(5 + (uint64_t)_i);
    static struct lines want;
    char keys[PUSHES];
    int64_t times[PUSHES], front = 1000;
    uint64_t rng = (uint64_t)_i + 99;

    want.count = 0;
    j->time.lateness_ms = 60;
    j->o.checkpoint_batches = _i % 2 ? 1 : 0;
    j->o.checkpoint_ms = _i % 2 ? 0 : 600000;
    start(j, build_without_late);
    for (size_t i = 0; i < PUSHES; i++) {
        keys[i] = (char)('a' + rng_next(&rng) % 3);
        times[i] = front - (int64_t)(rng_next(&rng) % 60);
        front += (int64_t)(rng_next(&rng) % 80);
        push(j, keys[i], times[i]);
        if (_i >= 2 && (_i >= 4 || i % 7 == 3)) {
            die(j, _i >= 4);
            j->o.workers = 1 + (uint32_t)(i % 3);
            start(j, build_without_late);
        }
    }
    drain(j);
    int64_t max = 0;
    for (size_t i = 0; i < PUSHES; i++) {
        max = times[i] > max ? times[i] : max;
    }
    expected_sessions(keys, times, max - 60, &want);
    ck_assert_uint_gt(want.count, 8);
    qsort(want.lines, want.count, sizeof want.lines[0], by_line);
    qsort(j->out.lines, j->out.count, sizeof want.lines[0], by_line);
    for (size_t i = 0; i < want.count || i < j->out.count; i++) {
        ck_assert_str_eq(i < j->out.count ? j->out.lines[i] : "nothing",
                         i < want.count ? want.lines[i] : "nothing");
    }
    end(j);
}
END_TEST

/* ---- what a replay sees ---- */

/* Batches 1-4 are in the log only. The next life reads watermarks by another rule: its own would
 * judge other records late, and the replay would not give what the sinks have. */
START_TEST(a_replay_sees_the_watermarks_that_were_logged)
{
    struct job *j = job_new(3);
    struct levee_metrics m;

    j->window = (struct levee_event_window){0};
    j->time = (struct levee_event_time_options){.lateness_ms = 5, .late = LEVEE_LATE_SIDE};
    j->o.checkpoint_ms = 600000;
    j->o.checkpoint_batches = 0;
    start(j, build);
    push(j, 'a', 100);
    push(j, 'b', 94);
    push(j, 'c', 95);
    push(j, 'd', 200);
    die(j, false);
    j->time.lateness_ms = 1000;
    start(j, build);
    levee_sim_run_ms(j->sim, 2 * INTERVAL);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.batches_replayed, 4);
    push(j, 'e', 194); /* the watermark was 195 in no batch yet, and the rule is another now */
    push(j, 'f', 20);  /* but it does not go back behind 95 */
    drain(j);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.records_late, 2);
    EXPECT(&j->late, "b 94", "f 20");
    EXPECT(&j->out, "a 100", "c 95", "d 200", "e 194");
    end(j);
}
END_TEST

/* The same through a checkpoint: watermark and count of late records come from there. */
START_TEST(a_checkpoint_holds_watermarks_and_counts)
{
    struct job *j = job_new(4);
    struct levee_metrics m;

    j->window = (struct levee_event_window){0};
    j->time.late = LEVEE_LATE_SIDE;
    start(j, build);
    push(j, 'a', 100);
    push(j, 'b', 99);
    drain(j);
    die(j, true);
    start(j, build);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.batches_replayed, 0);
    push(j, 'c', 98);
    drain(j);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.records_late, 2);
    EXPECT(&j->late, "b 99", "c 98");
    end(j);
}
END_TEST

/* Late by a window's judgement, as dead letters: stored once, whatever dies. */
static int count_letters(void *arg, const struct levee_dead_letter *letter)
{
    unsigned *n = arg;

    ck_assert_int_eq(letter->code, LEVEE_ELATE);
    ck_assert_str_eq(letter->uid, "windows");
    ck_assert_uint_eq(letter->attempts, 0);
    ++*n;
    return 0;
}
START_TEST(late_records_are_dead_letters_once)
{
    struct job *j = job_new(6);
    struct levee_metrics m;
    unsigned letters = 0;

    j->window.late = LEVEE_LATE_DEAD_LETTER;
    j->o.checkpoint_batches = 3;
    j->o.checkpoint_ms = 600000;
    start(j, build_without_late);
    for (int i = 0; i < 8; i++) {
        push(j, 'a', 1000 + i);
        push(j, 'b', 899 - i);
        die(j, i % 2);
        start(j, build_without_late);
    }
    drain(j);
    ck_assert_int_eq(levee_dead_letters_each(j->ctx, count_letters, &letters, NULL), 0);
    ck_assert_uint_eq(letters, 8);
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.records_late, 8);
    end(j);
}
END_TEST

/* ---- idle is free ---- */

START_TEST(a_tick_runs_a_batch_only_when_something_is_due)
{
    struct job *j = job_new(7);

    start(j, build_without_late);
    push(j, 'a', 0);
    push(j, 'a', 50);
    ck_assert_uint_eq(j->batches, 2);
    levee_sim_run_ms(j->sim, 5000); /* nobody knows whether a's session is over */
    ck_assert_uint_eq(j->batches, 2);
    push(j, 'b', 150); /* now it is: one batch for b, and one without input */
    levee_sim_run_ms(j->sim, 5000);
    ck_assert_uint_eq(j->batches, 4);
    EXPECT(&j->out, "a [0,150) 0: 2");
    drain(j);
    ck_assert_uint_eq(j->batches, 4);
    end(j);
}
END_TEST

/* A source that says nothing holds the other one's windows back, until it is idle: one batch. */
START_TEST(an_idle_source_lets_go_in_one_batch)
{
    struct job *j = job_new(8);

    j->time.idle_ms = 1000;
    start(j, build);
    push_other(j, 'b', 10);
    push(j, 'a', 500);
    push(j, 'a', 1000);
    levee_sim_run_ms(j->sim, 900);
    ck_assert_uint_eq(j->out.count, 0);
    ck_assert_uint_eq(j->batches, 3);
    levee_sim_run_ms(j->sim, 500);
    EXPECT(&j->out, "a [500,600) 0: 1", "b [10,110) 0: 1");
    ck_assert_uint_eq(j->batches, 4);
    push_other(j, 'b', 700); /* back again, too late */
    push(j, 'c', 1001);
    drain(j);
    EXPECT(&j->late, "b 700");
    end(j);
}
END_TEST

START_TEST(a_processing_timer_makes_its_tick_due_also_after_a_restart)
{
    struct job *j = job_new(9);

    j->timer_ms = 2000;
    start(j, build_without_late);
    push(j, 'a', 1);
    ck_assert_uint_eq(j->batches, 1);
    levee_sim_run_ms(j->sim, 1500);
    ck_assert_uint_eq(j->batches, 1);
    if (_i) {
        die(j, _i == 2);
        start(j, build_without_late);
    }
    levee_sim_run_ms(j->sim, 400);
    ck_assert_uint_eq(j->out.count, 0);
    levee_sim_run_ms(j->sim, 1000);
    EXPECT(&j->out, "a 1"); /* at the watermark */
    ck_assert_uint_eq(j->batches, 2);
    levee_sim_run_ms(j->sim, 5000);
    ck_assert_uint_eq(j->batches, 2);
    drain(j);
    end(j);
}
END_TEST

/* What the last records have completed is part of what was received. */
START_TEST(a_drain_fires_what_is_complete)
{
    struct job *j = job_new(10);
    struct levee_record r[] = {{{(const uint8_t *)"a", 1}, {NULL, 0}, 10},
                               {{(const uint8_t *)"b", 1}, {NULL, 0}, 500}};

    start(j, build_without_late);
    ck_assert_int_eq(levee_queue_push(j->source, r, 2, 1, NULL), LEVEE_OK);
    if (_i) { /* run once, as a tool does */
        levee_free(j->ctx);
        levee_sim_kill(j->sim);
        j->o.stop_at_end = true;
        start(j, build_without_late);
        if (j->pushed == 0) {
            ck_assert_int_eq(levee_queue_push(j->source, r, 2, 1, NULL), LEVEE_OK);
        }
        levee_queue_end(j->source);
        ck_assert_int_eq(levee_await(j->ctx, NULL), LEVEE_OK);
    } else {
        drain(j);
    }
    EXPECT(&j->out, "a [10,110) 0: 1");
    end(j);
}
END_TEST

/* ---- what a start refuses ---- */

START_TEST(other_lengths_are_refused_and_nothing_is_touched)
{
    struct job *j = job_new(11);
    struct levee_error err = {0};

    start(j, build_without_late);
    push(j, 'a', 10);
    drain(j);
    die(j, false);
    j->window.gap_ms = 101;
    ck_assert_int_eq(try_start(j, build_without_late, &err), LEVEE_ESTATE_VERSION);
    ck_assert_ptr_nonnull(strstr(err.what, "windows"));
    ck_assert_ptr_nonnull(strstr(err.expected, "gap 100 ms"));
    ck_assert_ptr_nonnull(strstr(err.found, "gap 101 ms"));
    die(j, true);
    j->window.gap_ms = 100;
    start(j, build_without_late);
    push(j, 'b', 110);
    drain(j);
    EXPECT(&j->out, "a [10,110) 0: 1");
    end(j);
}
END_TEST

/* A directory from before there was event time, with batches in its log, is read; one that has it
 * is not replayed without. */
START_TEST(event_time_is_added_to_an_old_directory_and_not_lost_from_a_new_one)
{
    struct job *j = job_new(12);
    struct levee_error err = {0};

    j->plain = true;
    j->o.checkpoint_ms = _i ? 1 : 600000;
    j->o.checkpoint_batches = 0;
    start(j, build);
    push(j, 'a', 10);
    push(j, 'b', 20);
    die(j, false);
    j->plain = false;
    j->window = (struct levee_event_window){0};
    j->time.late = LEVEE_LATE_SIDE;
    start(j, build);
    push(j, 'c', 30);
    push(j, 'd', 15);
    drain(j);
    die(j, false);
    j->plain = true;
    ck_assert_int_eq(try_start(j, build, &err), LEVEE_ESTATE_ORPHANED);
    end(j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("event_time");
    TCase *t = tcase_create("event_time");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, f20_sessions_come_once_through_a_death_after_every_push, 0, 6);
    tcase_add_test(t, a_replay_sees_the_watermarks_that_were_logged);
    tcase_add_test(t, a_checkpoint_holds_watermarks_and_counts);
    tcase_add_test(t, late_records_are_dead_letters_once);
    tcase_add_test(t, a_tick_runs_a_batch_only_when_something_is_due);
    tcase_add_test(t, an_idle_source_lets_go_in_one_batch);
    tcase_add_loop_test(t, a_processing_timer_makes_its_tick_due_also_after_a_restart, 0, 3);
    tcase_add_loop_test(t, a_drain_fires_what_is_complete, 0, 2);
    tcase_add_test(t, other_lengths_are_refused_and_nothing_is_touched);
    tcase_add_loop_test(t, event_time_is_added_to_an_old_directory_and_not_lost_from_a_new_one, 0,
                        2);
    suite_add_tcase(s, t);
    return suite_main(s);
}
