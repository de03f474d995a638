/*
 * The receiver contract (design 4c) from a receiver's side, on the simulated machine: sequences,
 * duplicates, gaps, connections, byes, the producer limit, backpressure, tickets. Process death is
 * a kill, power loss a power loss of the simulator.
 */
#include <stdio.h>
#include <string.h>

#include "levee/testing.h"
#include "tests/support/suite.h"

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_inlet *inlet;
    uint64_t durable;
    int ready, starts, stops;
    int64_t total;
    struct levee_options o;
    struct levee_receiver_options r;
};
static struct job job;

static int start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct job *j = self;

    (void)err;
    j->inlet = inlet;
    j->starts++;
    return LEVEE_OK;
}

static void stop(void *self)
{
    ((struct job *)self)->stops++;
}

static void durable(void *self, uint64_t ticket)
{
    struct job *j = self;

    ck_assert_uint_gt(ticket, j->durable); /* tickets rise */
    j->durable = ticket;
}

static void ready(void *self)
{
    ((struct job *)self)->ready++;
}

static const struct levee_receiver_ops ops = {
    .version = 1, .start = start, .stop = stop, .durable = durable, .ready = ready};

static int key_all(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_i64(out, levee_text("n"), (int64_t)in->value.len);
}

static int see(levee_batch *batch, const struct levee_token *token, void *arg,
               struct levee_error *err)
{
    struct job *j = arg;

    (void)token;
    (void)err;
    for (size_t p = 0; p < levee_batch_partitions(batch); p++) {
        size_t n;
        const struct levee_record *r = levee_batch_records(batch, p, &n);
        for (size_t i = 0; i < n; i++) {
            j->total = levee_i64(r[i].value);
        }
    }
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;
    levee_stream *s = levee_receiver_source(ctx, "in", &j->r, &ops, j);
    levee_stream *sums = levee_update_state_by_key(levee_map(s, key_all, NULL), "sum", NULL,
                                                   levee_update_sum_i64, NULL);

    (void)levee_foreach_batch(sums, "see", see, j);
    return levee_context_status(ctx, err);
}

static void quiet(void *arg, int level, const char *line)
{
    (void)arg;
    (void)level;
    (void)line;
}

static void begin(void)
{
    job = (struct job){.r = {.partitions = 2, .reliable = true, .replayable = true}};
    ck_assert_int_eq(levee_sim_new(&job.sim, &(struct levee_sim_options){.seed = 3}, NULL),
                     LEVEE_OK);
    job.o = (struct levee_options){.directory = "d",
                                   .batch_interval_ms = 10,
                                   .segment_bytes = 64 << 10,
                                   .buffer_bytes = 64 << 10,
                                   .block_bytes = 4 << 10,
                                   .producers_max = 3,
                                   .program_id = "t",
                                   .log = quiet,
                                   .testing = job.sim};
}

static void up(void)
{
    struct levee_error err = {0};
    char line[1024];

    job.durable = 0;
    ck_assert_msg(levee_get_or_create(&job.ctx, &job.o, build, &job, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
    ck_assert_msg(levee_start(job.ctx, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
    ck_assert_ptr_nonnull(job.inlet);
}

static void down(void)
{
    levee_free(job.ctx);
    levee_sim_kill(job.sim);
}

static void end(void)
{
    levee_free(job.ctx);
    levee_sim_free(job.sim);
}

/* n records of one byte from `producer`, beginning at seq. */
static int send(const char *producer, uint64_t seq, size_t n, uint64_t connection,
                uint64_t *ret_ticket, struct levee_error *err)
{
    static struct levee_record r[512];
    struct levee_append a = {.producer = levee_text(producer),
                             .connection = connection,
                             .first_sequence = seq,
                             .records = r,
                             .count = n};

    for (size_t i = 0; i < n; i++) {
        r[i] = (struct levee_record){.value = levee_text("x")};
    }
    return levee_inlet_append(job.inlet, &a, ret_ticket, err);
}

START_TEST(f4_resent_records_are_taken_once_and_their_ticket_completes)
{
    struct levee_error err = {0};
    uint64_t t1, t2, durable_seq, c;

    begin();
    up();
    ck_assert_int_eq(send("p", 1, 10, 0, &t1, &err), LEVEE_OK);
    ck_assert_uint_eq(job.durable, 0); /* not before the sync */
    levee_sim_run_ms(job.sim, 50);
    ck_assert_uint_ge(job.durable, t1);
    ck_assert_int_eq(send("p", 5, 10, 0, &t2, &err), LEVEE_OK); /* 5–10 again, 11–14 new */
    levee_sim_run_ms(job.sim, 50);
    ck_assert_uint_ge(job.durable, t2);
    ck_assert_int_eq(send("p", 1, 14, 0, &t2, &err), LEVEE_OK); /* all known: durable already */
    ck_assert_uint_le(t2, job.durable);
    ck_assert_int_eq(job.total, 14);
    down(); /* process death */
    up();
    ck_assert_int_eq(levee_inlet_hello(job.inlet, levee_text("p"), &durable_seq, &c, &err),
                     LEVEE_OK);
    ck_assert_uint_eq(durable_seq, 14);
    ck_assert_int_eq(send("p", 3, 13, c, &t2, &err), LEVEE_OK); /* 3–14 again, 15 new */
    levee_sim_run_ms(job.sim, 50);
    ck_assert_int_eq(job.total, 15);
    end();
}
END_TEST

START_TEST(a_gap_is_refused_with_its_range_and_takes_nothing)
{
    struct levee_error err = {0};
    uint64_t t;

    begin();
    up();
    ck_assert_int_eq(send("p", 1, 3, 0, &t, &err), LEVEE_OK);
    ck_assert_int_eq(send("p", 6, 2, 0, &t, &err), LEVEE_EDATA_MISSING);
    ck_assert_ptr_nonnull(strstr(err.found, "missing 4 to 5"));
    ck_assert_int_eq(send("q", 7, 1, 0, &t, &err), LEVEE_EPRODUCER_UNKNOWN);
    ck_assert_int_eq(send("p", 4, 2, 0, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 50);
    ck_assert_int_eq(job.total, 5);
    end();
}
END_TEST

START_TEST(an_older_connection_can_append_no_more)
{
    struct levee_error err = {0};
    uint64_t t, d, a, b;

    begin();
    up();
    ck_assert_int_eq(levee_inlet_hello(job.inlet, levee_text("p"), &d, &a, &err), LEVEE_OK);
    ck_assert_uint_eq(d, 0);
    ck_assert_int_eq(send("p", 1, 1, a, &t, &err), LEVEE_OK);
    ck_assert_int_eq(levee_inlet_hello(job.inlet, levee_text("p"), &d, &b, &err), LEVEE_OK);
    ck_assert_int_eq(send("p", 2, 1, a, &t, &err), LEVEE_EPRODUCER_STALE);
    ck_assert_int_eq(levee_inlet_bye(job.inlet, levee_text("p"), a, &t, &err),
                     LEVEE_EPRODUCER_STALE);
    ck_assert_int_eq(send("p", 2, 1, b, &t, &err), LEVEE_OK);
    end();
}
END_TEST

START_TEST(known_producers_are_never_pushed_out_and_a_bye_makes_room)
{
    struct levee_error err = {0};
    uint64_t t;

    begin();
    up();
    ck_assert_int_eq(send("a", 1, 1, 0, &t, &err), LEVEE_OK);
    ck_assert_int_eq(send("b", 1, 1, 0, &t, &err), LEVEE_OK);
    ck_assert_int_eq(send("c", 1, 1, 0, &t, &err), LEVEE_OK);
    ck_assert_int_eq(send("d", 1, 1, 0, &t, &err), LEVEE_EPRODUCER_LIMIT);
    ck_assert_int_eq(levee_inlet_bye(job.inlet, levee_text("b"), 0, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 100);
    ck_assert_uint_ge(job.durable, t);
    ck_assert_int_eq(send("d", 1, 1, 0, &t, &err), LEVEE_OK);
    ck_assert_uint_eq(levee_inlet_position(job.inlet, levee_text("a")), 1);
    levee_sim_run_ms(job.sim, 100);
    down();
    up(); /* the same table after a kill */
    ck_assert_int_eq(send("b", 1, 1, 0, &t, &err), LEVEE_EPRODUCER_LIMIT);
    ck_assert_int_eq(send("a", 2, 1, 0, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 100);
    ck_assert_int_eq(job.total, 5);
    end();
}
END_TEST

START_TEST(f77_a_source_faster_than_the_disk_is_told_full_and_called_back)
{
    struct levee_error err = {0};
    uint64_t t, seq = 1;
    int code = LEVEE_OK;
    struct levee_metrics m;

    begin();
    up();
    while (code == LEVEE_OK && seq < 100000) {
        code = send("p", seq, 100, 0, &t, &err);
        seq += code == LEVEE_OK ? 100 : 0;
    }
    ck_assert_int_eq(code, LEVEE_EFULL);
    ck_assert_int_eq(job.ready, 0);
    levee_sim_run_ms(job.sim, 100);
    ck_assert_int_ge(job.ready, 1);
    ck_assert_int_eq(send("p", seq, 100, 0, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 100);
    levee_context_metrics(job.ctx, &m);
    ck_assert_uint_le(m.buffered_bytes_max, 2 * job.o.buffer_bytes);
    ck_assert_int_eq(job.total, (int64_t)seq + 99);
    end();
}
END_TEST

START_TEST(f92_a_record_that_fits_no_segment_is_refused_whole)
{
    struct levee_error err = {0};
    static uint8_t big[80 << 10];
    struct levee_record r[2] = {{.value = levee_text("x")}, {.value = {big, sizeof big}}};
    uint64_t t;

    begin();
    up();
    struct levee_append a = {
        .producer = levee_text("p"), .first_sequence = 1, .records = r, .count = 2};
    ck_assert_int_eq(levee_inlet_append(job.inlet, &a, &t, &err), LEVEE_ERECORD_TOO_LONG);
    ck_assert_uint_eq(levee_inlet_position(job.inlet, levee_text("p")), 0);
    end();
}
END_TEST

START_TEST(numbers_with_holes_are_taken_once_across_a_power_loss)
{
    struct levee_error err = {0};
    struct levee_record r[4] = {{.value = levee_text("x")},
                                {.value = levee_text("x")},
                                {.value = levee_text("x")},
                                {.value = levee_text("x")}};
    uint64_t t, seqs[4] = {3, 4, 90, 7000000000u};
    struct levee_append a = {
        .producer = levee_text("topic/0"), .sequences = seqs, .records = r, .count = 4};

    begin();
    job.r.holes = true;
    up();
    ck_assert_int_eq(levee_inlet_append(job.inlet, &a, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 50);
    ck_assert_uint_ge(job.durable, t);
    levee_free(job.ctx);
    levee_sim_power_loss(job.sim);
    up();
    ck_assert_uint_eq(levee_inlet_position(job.inlet, levee_text("topic/0")), 7000000000u);
    ck_assert_int_eq(levee_inlet_append(job.inlet, &a, &t, &err), LEVEE_OK);
    levee_sim_run_ms(job.sim, 50);
    ck_assert_int_eq(job.total, 4);
    end();
}
END_TEST

static struct levee_record numbered(uint64_t seq, char text[64])
{
    (void)snprintf(text, 64, "%0*llu", (int)(seq * 7919 % 50), (unsigned long long)seq);
    return (struct levee_record){.key = seq % 3 ? levee_text(text) : (struct levee_slice){0},
                                 .value = seq % 5 ? levee_text(text) : (struct levee_slice){0},
                                 .time_ms = seq % 4 ? (int64_t)(seq * 1000) : 0};
}

/* Appends up to 300 records of numbers with holes; returns the last one. */
static uint64_t send_numbered(uint64_t after, size_t n)
{
    static char texts[300][64];
    static struct levee_record r[300];
    static uint64_t seqs[300];
    struct levee_append a = {
        .producer = levee_text("t/0"), .sequences = seqs, .records = r, .count = n};
    struct levee_error err = {0};
    uint64_t t;

    for (size_t i = 0; i < n; i++) {
        after += 1 + i % 2;
        seqs[i] = after;
        r[i] = numbered(after, texts[i]);
    }
    ck_assert_int_eq(levee_inlet_append(job.inlet, &a, &t, &err), LEVEE_OK);
    return after;
}

static void check_last_hash(uint64_t at_least)
{
    char text[64];
    uint64_t at = levee_inlet_position(job.inlet, levee_text("t/0"));
    struct levee_record r = numbered(at, text);

    ck_assert_uint_ge(at, at_least);
    ck_assert_uint_eq(levee_inlet_last_hash(job.inlet, levee_text("t/0")), levee_record_hash(&r));
}

/* Whether position and hash come from the log, from a checkpoint, or from a block in the middle of
 * an append that a power loss has cut short. */
START_TEST(the_hash_of_the_last_record_is_kept_with_its_position)
{
    struct levee_record absent = {0}, empty = {.value = levee_text("")};
    uint64_t at = 0, durable;

    ck_assert_uint_ne(levee_record_hash(&absent), levee_record_hash(&empty));
    begin();
    job.r.holes = job.r.identity = true;
    job.o.block_bytes = 1 << 10;
    job.o.buffer_bytes = 4 << 20;
    job.o.checkpoint_ms = 200;
    up();
    ck_assert_uint_eq(levee_inlet_last_hash(job.inlet, levee_text("t/0")), 0);
    for (size_t life = 0; life < 12; life++) {
        at = durable = send_numbered(at, 1 + life * 25);
        check_last_hash(at);                             /* what is taken counts within a life */
        levee_sim_run_ms(job.sim, life % 3 ? 50 : 1000); /* or long enough for a checkpoint */
        if (life % 2) {
            (void)send_numbered(at, 300); /* on its way to the disk, or not */
            levee_sim_run_ms(job.sim, 1);
            levee_free(job.ctx);
            levee_sim_power_loss(job.sim);
        } else {
            down();
        }
        up();
        check_last_hash(durable);
        at = levee_inlet_position(job.inlet, levee_text("t/0"));
    }
    end();
}
END_TEST

START_TEST(a_receiver_that_fails_is_started_again_with_backoff_and_a_fatal_one_stops_the_context)
{
    struct levee_error err = {.code = LEVEE_ECONNECTION, .what = "gone"};

    begin();
    up();
    for (int i = 1; i <= 3; i++) {
        levee_inlet_fail(job.inlet, &err, false);
        levee_sim_run_ms(job.sim, 60);
        ck_assert_int_eq(job.stops, i);
        ck_assert_int_eq(job.starts, i); /* waiting */
        levee_sim_run_ms(job.sim, 1000);
        ck_assert_int_eq(job.starts, i + 1);
    }
    levee_inlet_fail(job.inlet, &err, true);
    ck_assert_int_eq(levee_await(job.ctx, &err), LEVEE_ECONNECTION);
    end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("receiver");
    TCase *t = tcase_create("contract");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, f4_resent_records_are_taken_once_and_their_ticket_completes);
    tcase_add_test(t, a_gap_is_refused_with_its_range_and_takes_nothing);
    tcase_add_test(t, an_older_connection_can_append_no_more);
    tcase_add_test(t, known_producers_are_never_pushed_out_and_a_bye_makes_room);
    tcase_add_test(t, f77_a_source_faster_than_the_disk_is_told_full_and_called_back);
    tcase_add_test(t, f92_a_record_that_fits_no_segment_is_refused_whole);
    tcase_add_test(t, numbers_with_holes_are_taken_once_across_a_power_loss);
    tcase_add_test(t, the_hash_of_the_last_record_is_kept_with_its_position);
    tcase_add_test(
        t, a_receiver_that_fails_is_started_again_with_backoff_and_a_fatal_one_stops_the_context);
    suite_add_tcase(s, t);
    return suite_main(s);
}
