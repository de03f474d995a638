/*
 * Ranges that a source skips for good, and where dead letters come from, on the simulated machine:
 * a receiver whose numbers have two gaps, ended at every step of its life, by power loss and by
 * process death in turn, with its records in the log and with only their places there. However
 * often it is started again, every number arrives once and every gap is one letter.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "tests/integration/place.h"
#include "tests/support/suite.h"

#define LAST 40u

static bool is_missing(uint64_t seq)
{
    return (seq >= 11 && seq <= 14) || (seq >= 21 && seq <= 30);
}

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_inlet *inlet;
    bool positions, to_sink;
    uint64_t refuse; /* the function fails on this number */
    struct place place;
    unsigned seen[LAST + 1];
    struct levee_dead_letter letters[16];
    char producers[16][16];
    size_t letter_count;
};

/* ---- the receiver: everything at once, then it has ended ---- */

static void number(uint64_t seq, uint8_t bytes[8], struct levee_record *ret)
{
    put_le64(bytes, seq);
    *ret = (struct levee_record){.value = {bytes, 8}};
}

static int send_from(levee_inlet *in, uint64_t first, struct levee_error *err)
{
    struct levee_slice producer = levee_text("topic/0");
    uint64_t ticket;
    int code = LEVEE_OK;

    for (uint64_t seq = first, last; seq <= LAST && code == LEVEE_OK; seq = last + 1) {
        uint8_t bytes[8];
        struct levee_record r;
        for (last = seq; is_missing(seq) && is_missing(last + 1); last++) {
        }
        number(seq, bytes, &r);
        code = is_missing(seq) ? levee_inlet_gap(in, producer, 1, seq, last, &ticket, err)
                               : levee_inlet_append(in,
                                                    &(struct levee_append){.producer = producer,
                                                                           .first_sequence = seq,
                                                                           .records = &r,
                                                                           .partition = 1,
                                                                           .count = 1},
                                                    &ticket, err);
    }
    return code;
}

static int receiver_start(void *self, levee_inlet *in, struct levee_error *err)
{
    struct job *j = self;
    uint64_t position = levee_inlet_position(in, levee_text("topic/0"));

    j->inlet = in;
    int code = send_from(in, position + 1, err);
    if (code == LEVEE_OK) {
        levee_inlet_end(in);
    }
    return code;
}

static void receiver_stop(void *self)
{
    ((struct job *)self)->inlet = NULL;
}

static int receiver_read(void *self, levee_inlet *in, const struct levee_range *range,
                         levee_reread_fn add, void *arg, struct levee_error *err)
{
    int code = 0;

    (void)self;
    (void)in;
    (void)err;
    for (uint64_t seq = range->first; seq <= range->last && code == 0; seq++) {
        uint8_t bytes[8];
        struct levee_record r;
        ck_assert(!is_missing(seq)); /* a gap is never asked for again */
        number(seq, bytes, &r);
        code = add(arg, &r, seq);
    }
    return code;
}

static const struct levee_receiver_ops receiver_ops = {
    .version = 1, .start = receiver_start, .stop = receiver_stop, .read = receiver_read};

static void take(void *arg, const struct levee_token *token, const struct levee_record *r)
{
    struct job *j = arg;

    (void)token;
    j->seen[levee_i64(r->value)]++;
}

/* ---- the graph ---- */

static int pass(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct job *j = arg;

    return levee_i64(in->value) == (int64_t)j->refuse ? -5 : levee_emit_record(out, in);
}

static int copy(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_copy(out, in->key, in->value);
}

static int keep_letter(void *arg, const struct levee_dead_letter *d)
{
    struct job *j = arg;

    ck_assert_uint_lt(j->letter_count, ARRAY_LEN(j->letters));
    (void)snprintf(j->producers[j->letter_count], sizeof j->producers[0], "%.*s",
                   (int)d->producer.len, d->producer.data ? (const char *)d->producer.data : "");
    j->letters[j->letter_count++] = *d;
    return 0;
}

static int see_letters(levee_batch *batch, const struct levee_token *token, void *arg,
                       struct levee_error *err)
{
    size_t n;
    const struct levee_record *r = levee_batch_records(batch, 0, &n);

    (void)token;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        struct levee_dead_letter d;
        ck_assert(levee_dead_letter_of(&r[i], &d));
        (void)keep_letter(arg, &d);
    }
    return LEVEE_OK;
}

static bool copies; /* the function that fails sees a copy of the record */

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;
    j->place.take = take;
    j->place.arg = j;
    levee_stream *s =
        levee_receiver_source(ctx, "in",
                              &(struct levee_receiver_options){.partitions = 2,
                                                               .reliable = true,
                                                               .replayable = true,
                                                               .holes = true,
                                                               .identity = true,
                                                               .positions = j->positions},
                              &receiver_ops, j);

    s = copies ? levee_map(s, copy, NULL) : s;
    (void)levee_sink(levee_map(s, pass, j), "place", &place_ops, &j->place);
    if (j->to_sink) {
        (void)levee_foreach_batch(levee_dead_letters(ctx), "letters", see_letters, j);
    }
    return levee_context_status(ctx, err);
}

/* One life; false: the machine went down. */
static bool live(struct job *j)
{
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .segment_bytes = 64 << 10,
                              .workers = 1,
                              .checkpoint_batches = 1,
                              .on_failure = LEVEE_DEAD_LETTER,
                              .program_id = "test",
                              .stop_at_end = true,
                              .testing = j->sim};
    struct levee_error err = {0};
    char line[1024];

    int code = levee_get_or_create(&j->ctx, &o, build, j, &err);
    code = code ? code : levee_start(j->ctx, &err);
    code = code ? code : levee_await(j->ctx, &err);
    ck_assert_msg(code == LEVEE_OK || levee_sim_crashed(j->sim), "%s",
                  levee_error_format(&err, line, sizeof line));
    return code == LEVEE_OK;
}

static void end(struct job *j)
{
    levee_free(j->ctx);
    place_release(&j->place);
    levee_sim_free(j->sim);
}

static void must_be_whole(const struct job *j, const char *when)
{
    for (uint64_t i = 1; i <= LAST; i++) {
        ck_assert_msg(j->seen[i] == !is_missing(i), "%s: number %d %u times", when, (int)i,
                      j->seen[i]);
    }
    ck_assert_msg(j->letter_count == 2, "%s: %zu letters", when, j->letter_count);
    for (size_t i = 0; i < 2; i++) {
        const struct levee_dead_letter *d = &j->letters[i];
        ck_assert_str_eq(d->uid, "in");
        ck_assert_str_eq(d->source, "in");
        ck_assert_str_eq(j->producers[i], "topic/0");
        ck_assert_int_eq(d->code, LEVEE_EOFFSET_RANGE);
        ck_assert_uint_eq(d->partition, 1);
        ck_assert_ptr_null(d->key.data);
        ck_assert_ptr_null(d->value.data);
        ck_assert_uint_eq(d->first, i ? 21 : 11);
        ck_assert_uint_eq(d->last, i ? 30 : 14);
    }
}

/* Process death and power loss: at every step of the first life, positions in every other. */
START_TEST(a_gap_is_one_letter_whenever_the_machine_ends)
{
    bool crashed = true;
    uint64_t step = 1;

    for (; crashed; step++) {
        struct job j = {.positions = _i != 0};
        char when[40];
        (void)snprintf(when, sizeof when, "step %d", (int)step);
        ck_assert_int_eq(
            levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = step, .crash_at_step = step},
                          NULL),
            LEVEE_OK);
        crashed = !live(&j);
        if (crashed) {
            levee_free(j.ctx);
            (step % 2 ? levee_sim_power_loss : levee_sim_kill)(j.sim);
            ck_assert(live(&j));
        }
        ck_assert_int_eq(levee_dead_letters_each(j.ctx, keep_letter, &j, NULL), 0);
        must_be_whole(&j, when);
        end(&j);
    }
    ck_assert_uint_gt(step, 40);
}
END_TEST

START_TEST(a_sink_of_letters_is_told_of_gaps)
{
    struct job j = {.to_sink = true};

    ck_assert_int_eq(levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = 1}, NULL), LEVEE_OK);
    ck_assert(live(&j));
    must_be_whole(&j, "at once");
    end(&j);
}
END_TEST

/* A record as it came knows from where; a copy of it does not. */
START_TEST(a_letter_says_where_its_record_came_from)
{
    for (int copied = 0; copied < 2; copied++) {
        struct job j = {.refuse = 17, .to_sink = copied};
        copies = copied;
        ck_assert_int_eq(levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = 1}, NULL),
                         LEVEE_OK);
        ck_assert(live(&j));
        ck_assert_int_eq(levee_dead_letters_each(j.ctx, keep_letter, &j, NULL), 0);
        ck_assert_uint_eq(j.letter_count, 3);
        for (size_t i = 0; i < 3; i++) {
            const struct levee_dead_letter *d = &j.letters[i];
            if (d->code == -5) {
                ck_assert_str_eq(d->source, copied ? "" : "in");
                ck_assert_str_eq(j.producers[i], copied ? "" : "topic/0");
                ck_assert_uint_eq(d->first, copied ? 0 : 17);
                ck_assert_uint_eq(d->last, d->first);
            }
        }
        end(&j);
    }
    copies = false;
}
END_TEST

START_TEST(what_is_no_gap_is_refused)
{
    struct job j = {0};
    struct levee_options o = {.directory = "state", .batch_interval_ms = 10, .testing = NULL};
    struct levee_error err = {0};
    uint64_t ticket;

    ck_assert_int_eq(levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = 1}, NULL), LEVEE_OK);
    o.testing = j.sim;
    ck_assert_int_eq(levee_get_or_create(&j.ctx, &o, build, &j, &err), LEVEE_OK);
    ck_assert_int_eq(levee_start(j.ctx, &err), LEVEE_OK);
    levee_sim_run_ms(j.sim, 50);
    ck_assert_ptr_nonnull(j.inlet);
    struct levee_slice p = levee_text("topic/0");
    ck_assert_int_eq(levee_inlet_gap(j.inlet, p, 1, LAST, LAST + 3, &ticket, &err), LEVEE_EINVALID);
    ck_assert_ptr_nonnull(strstr(err.expected, "above 40"));
    ck_assert_int_eq(levee_inlet_gap(j.inlet, p, 1, 60, 59, &ticket, &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_inlet_gap(j.inlet, p, 2, 60, 61, &ticket, &err), LEVEE_EINVALID);
    ck_assert_uint_eq(levee_inlet_position(j.inlet, p), LAST);
    end(&j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gaps");
    TCase *t = tcase_create("gaps");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, a_gap_is_one_letter_whenever_the_machine_ends, 0, 2);
    tcase_add_test(t, a_sink_of_letters_is_told_of_gaps);
    tcase_add_test(t, a_letter_says_where_its_record_came_from);
    tcase_add_test(t, what_is_no_gap_is_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
