/*
 * A graph with two sinks of which one is down, from the outside, on the simulated machine: the
 * other goes on as far as memory allows, what is acknowledged stays so, and the one that comes back
 * gets everything once and in order. Kills at every step of such a life are the simulator world's
 * (tests/sim); a real broker that is away is tests/fault-kafka's.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "tests/integration/place.h"
#include "tests/support/suite.h"

#define BATCHES 200

/* What a sink has: values in their order, one batch behind the other. */
struct end {
    struct place place;
    uint64_t records, batch;
};

static void take(void *arg, const struct levee_token *token, const struct levee_record *r)
{
    struct end *e = arg;

    ck_assert(token->batch == e->batch || token->batch == e->batch + 1);
    ck_assert_int_eq(levee_i64(r->value), (int64_t)e->records);
    e->batch = token->batch;
    e->records++;
}

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source;
    struct end first, second;
    bool with_letters;
    uint64_t letters;
    struct levee_options o;
    uint64_t pushed;
};

static int pass(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct job *j = arg;

    return j->with_letters && in->key.len == 0 ? -5 : levee_emit_record(out, in);
}

static int see_letters(levee_batch *batch, const struct levee_token *token, void *arg,
                       struct levee_error *err)
{
    struct job *j = arg;
    size_t n;

    (void)token;
    (void)err;
    (void)levee_batch_records(batch, 0, &n);
    j->letters += n;
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->first.place.take = j->second.place.take = take;
    j->first.place.arg = &j->first;
    j->second.place.arg = &j->second;
    j->source = levee_queue_source(ctx, "in", 1);
    levee_stream *all = levee_map(j->source, pass, j);
    (void)levee_sink(all, "first", &place_ops, &j->first.place);
    (void)levee_sink(all, "second", &place_ops, &j->second.place);
    if (j->with_letters) {
        (void)levee_foreach_batch(levee_dead_letters(ctx), "letters", see_letters, j);
    }
    return levee_context_status(ctx, err);
}

static struct job job_new(void)
{
    struct job j = {.sim = NULL};

    ck_assert_int_eq(levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = 1}, NULL), LEVEE_OK);
    j.o = (struct levee_options){.directory = "state",
                                 .batch_interval_ms = 10,
                                 .segment_bytes = 64 << 10,
                                 .workers = 1,
                                 .checkpoint_ms = 50,
                                 .on_failure = LEVEE_DEAD_LETTER,
                                 .program_id = "test",
                                 .testing = j.sim};
    return j;
}

static void start(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(levee_get_or_create(&j->ctx, &j->o, build, j, &err) == LEVEE_OK &&
                      levee_start(j->ctx, &err) == LEVEE_OK,
                  "%s", levee_error_format(&err, line, sizeof line));
    j->pushed = levee_queue_durable(j->source);
}

/* The next value, and then time for a batch. */
static int push(struct job *j, const char *key)
{
    uint8_t le[8];
    struct levee_record r = {.key = {(const uint8_t *)key, strlen(key)}, .value = {le, 8}};

    for (int k = 0; k < 8; k++) {
        le[k] = (uint8_t)(j->pushed >> (8 * k));
    }
    int code = levee_queue_push(j->source, &r, 1, j->pushed + 1, NULL);
    j->pushed += code == LEVEE_OK;
    levee_sim_run_ms(j->sim, 10);
    return code;
}

static void push_some(struct job *j, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        ck_assert_int_eq(push(j, "k"), LEVEE_OK);
    }
}

static void must_drain(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(levee_drain(j->ctx, 0, &err) == LEVEE_OK && levee_await(j->ctx, &err) == LEVEE_OK,
                  "%s", levee_error_format(&err, line, sizeof line));
}

static void must_have_all(const struct job *j)
{
    ck_assert_uint_eq(j->first.records, j->pushed - j->letters);
    ck_assert_uint_eq(j->second.records, j->pushed - j->letters);
}

static void end(struct job *j)
{
    levee_free(j->ctx);
    place_release(&j->first.place);
    place_release(&j->second.place);
    levee_sim_free(j->sim);
}

/* ---- tests ---- */

START_TEST(the_first_goes_on_while_the_second_is_down)
{
    struct job j = job_new();

    start(&j);
    push_some(&j, 10);
    j.second.place.down = true;
    push_some(&j, BATCHES);
    ck_assert_uint_ge(j.first.records, 10 + BATCHES - 3); /* the last may be on their way */
    ck_assert_uint_le(j.second.records, 10);
    ck_assert_uint_gt(j.second.place.tries, 11);
    /* Back: everything in order, which the sink itself checks. */
    j.second.place.down = false;
    levee_sim_run_ms(j.sim, 6000);
    ck_assert_uint_eq(j.second.records, 10 + BATCHES);
    push_some(&j, 10);
    must_drain(&j);
    must_have_all(&j);
    end(&j);
}
END_TEST

/* Killed with the one far ahead of the other (process death): each is offered what it lacks, and
 * nothing that it has. New batches wait for the verdict on every sink. */
START_TEST(a_kill_while_one_is_far_ahead)
{
    struct job j = job_new();

    start(&j);
    push_some(&j, 10);
    j.second.place.down = true;
    push_some(&j, BATCHES);
    uint64_t ahead = j.first.records;
    ck_assert_uint_gt(ahead, j.second.records + BATCHES / 2);
    levee_free(j.ctx);
    levee_sim_kill(j.sim);
    start(&j);
    levee_sim_run_ms(j.sim, 200);
    ck_assert_uint_ge(j.first.records, ahead);
    j.second.place.down = false;
    push_some(&j, 10);
    must_drain(&j);
    must_have_all(&j);
    end(&j);
}
END_TEST

/* What is kept for the one that is down is bounded: then the other waits as well, and then the
 * receiver; nothing fails, nothing is lost. */
START_TEST(what_is_kept_is_bounded)
{
    struct job j = job_new();
    struct levee_metrics m;

    j.o.buffer_bytes = 64 << 10;
    start(&j);
    j.second.place.down = true;
    while (push(&j, "a key long enough to fill some of the buffer ................") == LEVEE_OK) {
        ck_assert_uint_lt(j.pushed, 5000);
    }
    levee_context_metrics(j.ctx, &m);
    ck_assert_uint_gt(j.first.records, BATCHES / 4);
    ck_assert_uint_le(m.buffered_bytes_max, 64 << 10);
    j.second.place.down = false;
    levee_sim_run_ms(j.sim, 6000);
    push_some(&j, 10);
    must_drain(&j);
    must_have_all(&j);
    end(&j);
}
END_TEST

/* Both down: as with one sink, two batches are computed and no more. */
START_TEST(with_both_down_nothing_runs_ahead)
{
    struct job j = job_new();
    struct levee_metrics m;

    start(&j);
    j.first.place.down = j.second.place.down = true;
    push_some(&j, BATCHES);
    levee_context_metrics(j.ctx, &m);
    ck_assert_uint_le(m.batches, 4);
    j.first.place.down = j.second.place.down = false;
    levee_sim_run_ms(j.sim, 6000);
    must_drain(&j);
    must_have_all(&j);
    end(&j);
}
END_TEST

/* Letters are complete when every other sink has the batch: their sink waits for the one that is
 * down, and must not keep the first from going on. */
START_TEST(a_sink_of_letters_waits_and_holds_up_nobody)
{
    struct job j = job_new();

    j.with_letters = true;
    start(&j);
    j.second.place.down = true;
    for (unsigned i = 0; i < BATCHES; i++) {
        ck_assert_int_eq(push(&j, "k"), LEVEE_OK);
    }
    ck_assert_uint_ge(j.first.records, BATCHES - 3);
    j.second.place.down = false;
    levee_sim_run_ms(j.sim, 6000);
    ck_assert_int_eq(push(&j, ""), LEVEE_OK); /* the last: values are checked by their place */
    must_drain(&j);
    ck_assert_uint_eq(j.letters, 1);
    must_have_all(&j);
    end(&j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("two sinks");
    TCase *t = tcase_create("one is down");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_first_goes_on_while_the_second_is_down);
    tcase_add_test(t, a_kill_while_one_is_far_ahead);
    tcase_add_test(t, what_is_kept_is_bounded);
    tcase_add_test(t, with_both_down_nothing_runs_ahead);
    tcase_add_test(t, a_sink_of_letters_waits_and_holds_up_nobody);
    suite_add_tcase(s, t);
    return suite_main(s);
}
