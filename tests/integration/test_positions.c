/*
 * Positions mode from the outside, on the simulated machine (process death): the log holds where
 * records are, a restart reads them again and believes only what it finds unchanged. Crashes at
 * every step are the simulator world's (tests/sim), a third of whose seeds run in this mode.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "tests/support/suite.h"

#define VALUE_BYTES 1000
#define RECORDS_MAX 400

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_inlet *inlet;
    struct levee_options o;
    bool data_mode, no_read;
    uint64_t ticket, durable_ticket;
    unsigned seen[RECORDS_MAX + 1]; /* by sequence: how often a batch held it */
    unsigned rereads;
    int away;             /* so many reads find the source away */
    uint64_t other_value; /* this record is another one now */
    uint64_t other_key;   /* … has a key now */
    uint64_t gone;        /* … is not there any more */
    uint64_t moved;       /* … has the next number now */
    bool waiting;         /* the context said so */
};

static void note(void *arg, int level, const char *line)
{
    struct job *j = arg;

    (void)level;
    j->waiting = j->waiting || strstr(line, "waiting for in") != NULL;
}

static struct levee_record record_of(uint64_t seq, char text[VALUE_BYTES])
{
    memset(text, (int)('a' + seq % 26), VALUE_BYTES);
    (void)snprintf(text, 20, "%llu", (unsigned long long)seq);
    return (struct levee_record){.value = slice_of(text, VALUE_BYTES)};
}

static int in_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct job *j = self;

    (void)err;
    j->inlet = inlet;
    return LEVEE_OK;
}

static void in_stop(void *self)
{
    (void)self;
}

static void in_durable(void *self, uint64_t ticket)
{
    ((struct job *)self)->durable_ticket = ticket;
}

static int in_read(void *self, levee_inlet *inlet, const struct levee_range *range,
                   levee_reread_fn add, void *arg, struct levee_error *err)
{
    struct job *j = self;
    int code = LEVEE_OK;

    (void)inlet;
    if (j->away) {
        j->away--;
        return err_set(err, LEVEE_ECONNECTION, "it is away");
    }
    for (uint64_t seq = range->first; seq <= range->last && code == LEVEE_OK; seq++) {
        char text[VALUE_BYTES];
        struct levee_record r = record_of(seq, text);
        text[500] = (char)(text[500] + (seq == j->other_value));
        r.key = seq == j->other_key ? levee_text("key") : r.key;
        if (seq != j->gone) {
            code = add(arg, &r, seq + (seq == j->moved));
            j->rereads++;
        }
    }
    return code;
}

static const struct levee_receiver_ops with_read = {
    .version = 1, .start = in_start, .stop = in_stop, .durable = in_durable, .read = in_read};
static const struct levee_receiver_ops without_read = {
    .version = 1, .start = in_start, .stop = in_stop, .durable = in_durable};

static int see(levee_batch *batch, const struct levee_token *token, void *arg,
               struct levee_error *err)
{
    struct job *j = arg;
    size_t n;
    const struct levee_record *r = levee_batch_records(batch, 0, &n);

    (void)token;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        char text[VALUE_BYTES];
        uint64_t seq = strtoull((const char *)r[i].value.data, NULL, 10);
        struct levee_record want = record_of(seq, text);
        ck_assert(seq >= 1 && seq <= RECORDS_MAX && slice_eq(r[i].value, want.value));
        j->seen[seq]++;
    }
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;
    struct levee_receiver_options o = {
        .partitions = 1, .reliable = true, .replayable = true, .positions = !j->data_mode};
    levee_stream *s =
        levee_receiver_source(ctx, "in", &o, j->no_read ? &without_read : &with_read, j);

    (void)levee_foreach_batch(s, "see", see, j);
    return levee_context_status(ctx, err);
}

static struct job job_new(void)
{
    struct job j = {0};

    ck_assert_int_eq(levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = 1}, NULL), LEVEE_OK);
    j.o = (struct levee_options){.directory = "state",
                                 .batch_interval_ms = 1000,
                                 .checkpoint_ms = 1000000,
                                 .block_bytes = 4096,
                                 .workers = 1,
                                 .log = note,
                                 .program_id = "test",
                                 .testing = j.sim};
    return j;
}

static int open_and_start(struct job *j, struct levee_error *err)
{
    j->o.log_arg = j;
    j->durable_ticket = 0;
    int code = levee_get_or_create(&j->ctx, &j->o, build, j, err);
    return code ? code : levee_start(j->ctx, err);
}

static void start(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(open_and_start(j, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
}

static void push(struct job *j, uint64_t from, uint64_t to)
{
    for (uint64_t seq = from; seq <= to; seq++) {
        char text[VALUE_BYTES];
        struct levee_record r = record_of(seq, text);
        struct levee_append a = {
            .producer = levee_text("p"), .first_sequence = seq, .records = &r, .count = 1};
        ck_assert_int_eq(levee_inlet_append(j->inlet, &a, &j->ticket, NULL), LEVEE_OK);
    }
    levee_sim_run_ms(j->sim, 20);
    ck_assert_uint_ge(j->durable_ticket, j->ticket);
}

/* Process death; the disk is as it was. */
static void die(struct job *j)
{
    levee_free(j->ctx);
    levee_sim_kill(j->sim);
    j->ctx = NULL;
}

static void check_seen(const struct job *j, uint64_t to)
{
    for (uint64_t seq = 1; seq <= to; seq++) {
        ck_assert_msg(j->seen[seq] == 1, "%llu was in %u batches", (unsigned long long)seq,
                      j->seen[seq]);
    }
}

static void drain(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_int_eq(levee_drain(j->ctx, 0, NULL), LEVEE_OK);
    ck_assert_msg(levee_await(j->ctx, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
    levee_free(j->ctx);
}

START_TEST(the_log_holds_places_and_a_restart_reads_the_records_again)
{
    struct job j = job_new();
    struct levee_metrics m;

    start(&j);
    push(&j, 1, 100);
    levee_context_metrics(j.ctx, &m);
    ck_assert_uint_ge(m.bytes_received, 100 * VALUE_BYTES);
    ck_assert_uint_lt(m.bytes_logged, 100 * VALUE_BYTES / 5); /* groups are padded to 4 KiB */
    die(&j);
    ck_assert_uint_eq(j.seen[1], 0); /* it died before the tick */
    start(&j);
    push(&j, 101, 120);
    drain(&j);
    ck_assert_uint_eq(j.rereads, 100);
    check_seen(&j, 120);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(a_batch_that_was_logged_is_made_of_the_same_records)
{
    struct job j = job_new();

    start(&j);
    push(&j, 1, 50);
    levee_sim_run_ms(j.sim, 2500);
    check_seen(&j, 50);
    push(&j, 51, 60);
    die(&j);
    start(&j);
    drain(&j);
    ck_assert_uint_eq(j.rereads, 60);
    check_seen(&j, 60); /* the first 50 were computed again, but their batch was done */
    levee_sim_free(j.sim);
}
END_TEST

/* f86, f87: whatever has changed is found, and named with both hashes. */
START_TEST(f86_records_that_changed_are_refused_with_both_hashes)
{
    struct job j = job_new();
    struct levee_error err = {0};

    start(&j);
    push(&j, 1, 30);
    die(&j);
    *(_i == 0 ? &j.other_value : _i == 1 ? &j.other_key : _i == 2 ? &j.gone : &j.moved) = 17;
    int code = open_and_start(&j, &err);
    if (code == LEVEE_OK) {
        levee_sim_run_ms(j.sim, 3000);
        code = levee_await(j.ctx, &err);
    }
    ck_assert_int_eq(code, LEVEE_ETOPIC_CHANGED);
    ck_assert_ptr_nonnull(strstr(err.where, "producer p"));
    ck_assert_ptr_nonnull(strstr(err.expected, "hash"));
    ck_assert_ptr_nonnull(strstr(err.found, "hash"));
    ck_assert_uint_eq(j.seen[17], 0);
    levee_free(j.ctx);
    /* Put right, it goes on: nothing was cut. */
    j.other_value = j.other_key = j.gone = j.moved = 0;
    start(&j);
    drain(&j);
    check_seen(&j, 30);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(f79_a_source_that_is_away_is_waited_for)
{
    struct job j = job_new();

    start(&j);
    push(&j, 1, 30);
    die(&j);
    j.away = 5;
    start(&j);
    push(&j, 31, 40); /* receiving goes on */
    drain(&j);
    ck_assert_int_eq(j.away, 0);
    ck_assert(j.waiting);
    check_seen(&j, 40);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(more_than_the_buffer_is_read_again_in_turns)
{
    struct job j = job_new();

    start(&j);
    push(&j, 1, 300);
    die(&j);
    j.o.buffer_bytes = 20000; /* of 300,000 */
    start(&j);
    drain(&j);
    ck_assert_uint_eq(j.rereads, 300);
    check_seen(&j, 300);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(the_mode_may_change_between_two_lives)
{
    struct job j = job_new();

    start(&j);
    push(&j, 1, 20);
    die(&j);
    j.data_mode = true;
    start(&j);
    push(&j, 21, 40);
    die(&j);
    j.data_mode = false;
    start(&j);
    push(&j, 41, 60);
    drain(&j);
    check_seen(&j, 60);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(a_source_that_cannot_read_again_is_refused)
{
    struct job j = job_new();
    struct levee_error err = {0};

    j.no_read = true;
    ck_assert_int_eq(levee_get_or_create(&j.ctx, &j.o, build, &j, &err), LEVEE_EINVALID);
    j.no_read = false;
    start(&j);
    push(&j, 1, 5);
    die(&j);
    j.no_read = j.data_mode = true;
    ck_assert_int_eq(open_and_start(&j, &err), LEVEE_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.what, "again"));
    levee_free(j.ctx);
    levee_sim_free(j.sim);
}
END_TEST

START_TEST(records_without_a_number_have_no_place)
{
    struct job j = job_new();
    struct levee_record r = {.value = levee_text("x")};
    struct levee_append a = {.records = &r, .count = 1};
    uint64_t ticket;

    start(&j);
    ck_assert_int_eq(levee_inlet_append(j.inlet, &a, &ticket, NULL), LEVEE_EINVALID);
    levee_free(j.ctx);
    levee_sim_free(j.sim);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("positions mode");
    TCase *c = tcase_create("positions");

    tcase_add_test(c, the_log_holds_places_and_a_restart_reads_the_records_again);
    tcase_add_test(c, a_batch_that_was_logged_is_made_of_the_same_records);
    tcase_add_loop_test(c, f86_records_that_changed_are_refused_with_both_hashes, 0, 4);
    tcase_add_test(c, f79_a_source_that_is_away_is_waited_for);
    tcase_add_test(c, more_than_the_buffer_is_read_again_in_turns);
    tcase_add_test(c, the_mode_may_change_between_two_lives);
    tcase_add_test(c, a_source_that_cannot_read_again_is_refused);
    tcase_add_test(c, records_without_a_number_have_no_place);
    suite_add_tcase(s, c);
    return suite_main(s);
}
