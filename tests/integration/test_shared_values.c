/*
 * Broadcasts and data sets from the outside, on the simulated machine. What every record must have
 * seen is known from the order in which things were done here: a batch sees what was in force when
 * it was opened, the same in every replay.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "levee/connect.h"
#include "levee/testing.h"
#include "runtime/context.h"
#include "tests/integration/place.h"
#include "tests/support/suite.h"

#define ROUNDS 12
#define PLACES 4096
#define KEYS   7

struct seen { /* what a sink was given, as text */
    char text[40];
    uint64_t batch;
};
struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source;
    levee_broadcast *rate;
    levee_dataset *names;
    enum levee_join kind;
    uint32_t workers;
    struct place place;
    struct seen seen[PLACES];
    size_t count;
};

static void take(void *arg, const struct levee_token *token, const struct levee_record *r)
{
    struct job *j = arg;
    struct levee_slice left, right;

    ck_assert_uint_lt(j->count, PLACES);
    struct seen *s = &j->seen[j->count++];
    ck_assert(levee_sides(r->value, &left, &right));
    (void)snprintf(s->text, sizeof s->text, "%.*s:%.*s:%.*s", (int)r->key.len,
                   (const char *)r->key.data, (int)left.len,
                   left.data ? (const char *)left.data : "", (int)right.len,
                   right.data ? (const char *)right.data : "");
    s->batch = token->batch;
}

/* ---- the graph: (key, number) with the rate of the batch, joined with names ---- */

static int with_rate(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct job *j = arg;
    struct levee_slice rate = levee_broadcast_value(out, j->rate);
    char *text = levee_alloc(out, 64);

    if (!text) {
        return LEVEE_ENOMEM;
    }
    int n = snprintf(text, 64, "%d@%.*s", (int)levee_i64(in->value), (int)rate.len,
                     (const char *)rate.data);
    return levee_emit(out, in->key, (struct levee_slice){(const uint8_t *)text, (size_t)n});
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    if (levee_broadcast_open(ctx, "rate", levee_text("r0"), &j->rate, err) ||
        levee_dataset_open(ctx, "names", &j->names, err)) {
        return err->code;
    }
    j->source = levee_queue_source(ctx, "in", 3);
    levee_stream *s = levee_map(j->source, with_rate, j);
    (void)levee_sink(levee_join_dataset(s, j->names, j->kind), "place", &place_ops, &j->place);
    return levee_context_status(ctx, err);
}

static struct job *job_new(uint64_t crash_at)
{
    struct job *j = calloc(1, sizeof *j);

    ck_assert_ptr_nonnull(j);
    j->place.take = take;
    j->place.arg = j;
    j->workers = 2;
    j->kind = LEVEE_LEFT_OUTER;
    ck_assert_int_eq(
        levee_sim_new(&j->sim,
                      &(struct levee_sim_options){.seed = crash_at + 1, .crash_at_step = crash_at},
                      NULL),
        LEVEE_OK);
    return j;
}

static int start(struct job *j, struct levee_error *err)
{
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .segment_bytes = 64 << 10,
                              .workers = j->workers,
                              .partitions = 3,
                              .checkpoint_batches = 3,
                              .program_id = "test",
                              .testing = j->sim};
    int code = levee_get_or_create(&j->ctx, &o, build, j, err);

    return code ? code : levee_start(j->ctx, err);
}

static void end(struct job *j)
{
    levee_free(j->ctx);
    place_release(&j->place);
    levee_sim_free(j->sim);
    free(j);
}

/* Round r: rate r<r>; names have key k twice if k divides into r, else not at all. */
static size_t names_of(unsigned round, struct levee_record r[2 * KEYS], char text[2 * KEYS][24])
{
    static const char *const keys[KEYS] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6"};
    size_t n = 0;

    for (unsigned k = 0; k < KEYS; k++) {
        for (unsigned twice = 0; twice < 2 && (round + k) % 3; twice++, n++) {
            (void)snprintf(text[n], 24, "n%u.%u.%u", round, k, twice);
            r[n] = (struct levee_record){.key = levee_text(keys[k]), .value = levee_text(text[n])};
        }
    }
    return n;
}

static int swap_both(struct job *j, unsigned round, struct levee_error *err)
{
    struct levee_record r[2 * KEYS];
    char text[2 * KEYS][24], rate[16];
    size_t n = names_of(round, r, text);

    (void)snprintf(rate, sizeof rate, "r%u", round);
    int code = levee_dataset_swap(j->names, r, n, err);
    return code ? code : levee_broadcast_swap(j->rate, levee_text(rate), err);
}

/* One record per key, numbered by its round, in one batch. */
static int push_round(struct job *j, unsigned round, struct levee_error *err)
{
    struct levee_record r[KEYS];
    uint8_t le[8];
    char keys[KEYS][4];

    put_le64(le, round);
    for (unsigned k = 0; k < KEYS; k++) {
        (void)snprintf(keys[k], sizeof keys[k], "k%u", k);
        r[k] = (struct levee_record){.key = levee_text(keys[k]), .value = {le, 8}};
    }
    int code = levee_queue_push(j->source, r, KEYS, (uint64_t)(round - 1) * KEYS + 1, err);
    levee_sim_run_ms(j->sim, 10);
    return code;
}

/* A round's swap counts if it returned; a record's batch may have been opened by a life before or
 * behind it, but never before the swap of the round that pushed it. */
static int live(struct job *j, struct levee_error *err)
{
    int code = start(j, err);

    for (unsigned round = code ? ROUNDS + 1 : (unsigned)(levee_queue_durable(j->source) / KEYS) + 1;
         round <= ROUNDS && code == LEVEE_OK; round++) {
        code = swap_both(j, round, err);
        code = code ? code : push_round(j, round, err);
    }
    code = code ? code : levee_drain(j->ctx, 0, err);
    return code ? code : levee_await(j->ctx, err);
}

static void must_live(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(live(j, &err) == LEVEE_OK, "%s", levee_error_format(&err, line, sizeof line));
}

/* Every (key, round) was joined once, with names and rate of one version each, which is not older
 * than its round. exact: it is that of its round. */
static void must_hold(const struct job *j, bool exact)
{
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (unsigned k = 0; k < KEYS; k++) {
            unsigned rows = 0, names = 0, with = 0;
            for (size_t i = 0; i < j->count; i++) {
                unsigned key, number, rate, n = 0, nk = 0, twice = 0;
                int got = sscanf(j->seen[i].text, "k%u:%u@r%u:n%u.%u.%u", &key, &number, &rate, &n,
                                 &nk, &twice);
                if (key != k || number != round) {
                    continue;
                }
                ck_assert_msg(rate >= round && (!exact || rate == round), "%s", j->seen[i].text);
                if (got > 3) {
                    ck_assert_uint_eq(nk, k);
                    ck_assert_uint_eq(twice, names);
                    ck_assert_msg((!exact || n == round) && n >= round && (!with || n == with),
                                  "%s", j->seen[i].text);
                    with = n;
                    names++;
                } else if (exact) {
                    ck_assert_msg((round + k) % 3 == 0, "%s", j->seen[i].text);
                }
                rows++;
            }
            ck_assert_msg(rows == (names ? 2 : 1), "k%u of round %u: %u rows, %u with a name", k,
                          round, rows, names);
        }
    }
}

/* ---- tests ---- */

START_TEST(a_batch_sees_what_is_in_force)
{
    static const uint32_t workers[] = {1, 2, 7};
    struct seen *first = NULL;
    size_t count = 0;

    for (int i = 0; i < 3; i++) {
        struct job *j = job_new(0);
        j->workers = workers[i];
        must_live(j);
        must_hold(j, true);
        ck_assert_uint_eq(levee_shared_version(j->rate), ROUNDS + 1);
        if (first) { /* the same, in the same order */
            ck_assert_uint_eq(count, j->count);
            ck_assert_mem_eq(first, j->seen, count * sizeof *first);
        } else {
            count = j->count;
            first = malloc(count * sizeof *first);
            ck_assert_ptr_nonnull(first);
            memcpy(first, j->seen, count * sizeof *first);
        }
        end(j);
    }
    free(first);
}
END_TEST

/* Power loss and process death in turn, at every third step of the first life. What a sink has of a
 * batch is compared by the runtime with what the replay gives (4d.5): another version would be
 * NONDETERMINISTIC. */
START_TEST(a_replay_sees_what_the_batch_saw_wherever_the_machine_ends)
{
    bool crashed = true;
    uint64_t step = 1;

    for (; crashed; step += 3) {
        struct job *j = job_new(step);
        struct levee_error err = {0};
        int code = live(j, &err);
        crashed = levee_sim_crashed(j->sim);
        ck_assert(crashed || code == LEVEE_OK);
        if (crashed) {
            levee_free(j->ctx);
            (step % 2 ? levee_sim_power_loss : levee_sim_kill)(j->sim);
            must_live(j);
        }
        must_hold(j, !crashed);
        end(j);
    }
    ck_assert_uint_gt(step, 200);
}
END_TEST

/* A process death leaves names that only the page cache has. What the next life finds there and
 * lets a batch see must outlast the power loss that ends it. */
START_TEST(a_version_found_after_a_process_death_outlasts_a_power_loss)
{
    bool crashed = true;
    uint64_t step = 1;

    for (; crashed; step++) {
        struct job *j = job_new(step);
        struct levee_error err = {0};
        char line[1024];
        int code = start(j, &err);
        code = code ? code : push_round(j, 1, &err);
        code = code ? code : swap_both(j, 2, &err);
        crashed = levee_sim_crashed(j->sim);
        ck_assert(crashed || code == LEVEE_OK);
        levee_free(j->ctx);
        levee_sim_kill(j->sim);
        levee_sim_set(j->sim, &(struct levee_sim_options){.seed = step});
        ck_assert_int_eq(start(j, &err), LEVEE_OK); /* and no swap of its own */
        unsigned next = levee_queue_durable(j->source) ? 2 : 1;
        ck_assert_int_eq(push_round(j, next, &err), LEVEE_OK);
        levee_sim_run_ms(j->sim, 20);
        levee_free(j->ctx);
        levee_sim_power_loss(j->sim);
        ck_assert_msg(start(j, &err) == LEVEE_OK && levee_drain(j->ctx, 0, &err) == LEVEE_OK &&
                          levee_await(j->ctx, &err) == LEVEE_OK,
                      "step %d: %s", (int)step, levee_error_format(&err, line, sizeof line));
        end(j);
    }
    ck_assert_uint_gt(step, 40);
}
END_TEST

/* After a restart the last swap is in force, whatever setup passes; also when no batch saw it. */
START_TEST(a_swap_that_returned_is_in_force_after_a_restart)
{
    struct job *j = job_new(0);
    struct levee_error err = {0};

    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    ck_assert_int_eq(swap_both(j, 5, &err), LEVEE_OK);
    levee_free(j->ctx);
    levee_sim_power_loss(j->sim);
    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    ck_assert_uint_eq(levee_shared_version(j->rate), 2);
    ck_assert_int_eq(push_round(j, 1, &err), LEVEE_OK);
    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    ck_assert_uint_gt(j->count, KEYS);
    for (size_t i = 0; i < j->count; i++) {
        ck_assert_ptr_nonnull(strstr(j->seen[i].text, "1@r5"));
    }
    end(j);
}
END_TEST

/* Every kind of join against loops over both sides. */
START_TEST(every_kind_of_join)
{
    struct job *j = job_new(0);
    struct levee_record names[2 * KEYS];
    char text[2 * KEYS][24];
    struct levee_error err = {0};

    j->kind = (enum levee_join)_i;
    bool left = _i == LEVEE_LEFT_OUTER || _i == LEVEE_FULL_OUTER;
    bool right = _i == LEVEE_RIGHT_OUTER || _i == LEVEE_FULL_OUTER;
    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    ck_assert_int_eq(swap_both(j, 4, &err), LEVEE_OK);
    size_t n = names_of(4, names, text), expected = 0;
    /* Keys k0 to k3 come, k4 to k6 do not. */
    struct levee_record r[4];
    uint8_t le[8] = {4};
    static const char *const keys[] = {"k0", "k1", "k2", "k3"};
    for (unsigned k = 0; k < 4; k++) {
        r[k] = (struct levee_record){.key = levee_text(keys[k]), .value = {le, 8}};
    }
    ck_assert_int_eq(levee_queue_push(j->source, r, 4, 1, &err), LEVEE_OK);
    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    for (unsigned k = 0; k < KEYS; k++) {
        unsigned met = 0;
        for (size_t i = 0; i < n; i++) {
            char row[40];
            if (names[i].key.data[1] - '0' != (int)k) {
                continue;
            }
            met++;
            (void)snprintf(row, sizeof row, "k%u:%s:%s", k, k < 4 ? "4@r4" : "", text[i]);
            size_t found = 0;
            for (size_t s = 0; s < j->count; s++) {
                found += strcmp(j->seen[s].text, row) == 0;
            }
            bool there = k < 4 || right;
            ck_assert_msg(found == there, "%s: %zu times", row, found);
            expected += there;
        }
        expected += k < 4 && !met && left;
    }
    ck_assert_uint_eq(j->count, expected);
    end(j);
}
END_TEST

/* Versions that no replay can ask for go, and the last stays. */
START_TEST(old_versions_go)
{
    struct job *j = job_new(0);
    struct levee_error err = {0};

    must_live(j);
    must_hold(j, true);
    levee_free(j->ctx);
    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    for (unsigned round = ROUNDS + 1; round < ROUNDS + 60; round++) {
        ck_assert_int_eq(swap_both(j, round, &err), LEVEE_OK);
        ck_assert_int_eq(push_round(j, round, &err), LEVEE_OK);
    }
    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    levee_free(j->ctx);
    struct io *io = j->sim->io;
    struct io_list names = {0};
    ck_assert_int_eq(io->ops->list(io, "state/shared", &names, &err), LEVEE_OK);
    ck_assert_uint_ge(names.count, 2);
    ck_assert_uint_le(names.count, 30); /* of 144 */
    io_list_free(&names);
    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    ck_assert_uint_eq(levee_shared_version(j->rate), ROUNDS + 60);
    end(j);
}
END_TEST

START_TEST(a_damaged_version_stops_the_start)
{
    struct job *j = job_new(0);
    struct levee_error err = {0};
    struct io_list names = {0};
    char path[IO_PATH_MAX];
    struct io_file *f;

    must_live(j);
    levee_free(j->ctx);
    struct io *io = j->sim->io;
    ck_assert_int_eq(io->ops->list(io, "state/shared", &names, &err), LEVEE_OK);
    ck_assert_int_eq(io_path(path, "state/shared", names.items[names.count - 1].name, &err),
                     LEVEE_OK);
    io_list_free(&names);
    ck_assert_int_eq(io->ops->open(io, path, IO_WRITE, &f, &err), LEVEE_OK);
    struct iovec one = {(void *)(uintptr_t) "?", 1};
    ck_assert_int_eq(io->ops->pwritev(f, &one, 1, 20, &err), LEVEE_OK);
    io->ops->close(f);
    ck_assert_int_eq(start(j, &err), LEVEE_ESHARED);
    ck_assert_ptr_nonnull(strstr(err.what, "is damaged"));
    ck_assert_ptr_nonnull(strstr(err.where, "state/shared/"));
    end(j);
}
END_TEST

START_TEST(bad_calls_are_refused)
{
    struct job *j = job_new(0);
    struct levee_error err = {0};
    levee_broadcast *b;
    levee_dataset *d;

    ck_assert_int_eq(start(j, &err), LEVEE_OK);
    ck_assert_int_eq(levee_broadcast_open(j->ctx, "a b", levee_text(""), &b, &err),
                     LEVEE_EGRAPH_UID);
    ck_assert_int_eq(levee_dataset_open(j->ctx, "rate", &d, &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_broadcast_swap(j->names, levee_text("x"), &err), LEVEE_EINVALID);
    ck_assert_int_eq(levee_dataset_swap(j->rate, NULL, 0, &err), LEVEE_EINVALID);
    /* One that is opened late begins at once. */
    ck_assert_int_eq(levee_broadcast_open(j->ctx, "late", levee_text("x"), &b, &err), LEVEE_OK);
    ck_assert_uint_eq(levee_shared_version(b), 1);
    ck_assert_int_eq(levee_drain(j->ctx, 0, &err), LEVEE_OK);
    ck_assert_int_eq(levee_await(j->ctx, &err), LEVEE_OK);
    ck_assert_int_eq(levee_broadcast_swap(j->rate, levee_text("x"), &err), LEVEE_ESTATE);
    end(j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("shared values");
    TCase *t = tcase_create("broadcasts and data sets");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_batch_sees_what_is_in_force);
    tcase_add_test(t, a_replay_sees_what_the_batch_saw_wherever_the_machine_ends);
    tcase_add_test(t, a_version_found_after_a_process_death_outlasts_a_power_loss);
    tcase_add_test(t, a_swap_that_returned_is_in_force_after_a_restart);
    tcase_add_loop_test(t, every_kind_of_join, 0, 4);
    tcase_add_test(t, old_versions_go);
    tcase_add_test(t, a_damaged_version_stops_the_start);
    tcase_add_test(t, bad_calls_are_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
