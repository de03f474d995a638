/*
 * The files sink when it is started again under other names, on the simulated machine: a file that
 * was prepared is found under the name it was prepared with. Power loss and process death in turn,
 * at every step of the first life. (The rest of its contract: test_sink_conformance, test_chains.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "levee/testing.h"
#include "runtime/context.h"
#include "tests/support/suite.h"

#define NUMBERS 30

struct job {
    struct levee_testing *sim;
    levee_context *ctx;
    levee_stream *source;
    struct levee_file_sink_options files;
    unsigned seen[NUMBERS + 1];
    int64_t last_time;
    bool names_are_times;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->source = levee_queue_source(ctx, "in", 1);
    (void)levee_file_sink(j->source, "out", &j->files);
    return levee_context_status(ctx, err);
}

static int live(struct job *j, struct levee_error *err)
{
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .segment_bytes = 64 << 10,
                              .workers = 1,
                              .checkpoint_batches = 3,
                              .program_id = "test",
                              .testing = j->sim};
    int code = levee_get_or_create(&j->ctx, &o, build, j, err);

    code = code ? code : levee_start(j->ctx, err);
    for (uint64_t n = code ? NUMBERS : levee_queue_durable(j->source); n < NUMBERS && !code; n++) {
        uint8_t le[8];
        struct levee_record r = {.value = {le, 8}};
        put_le64(le, n + 1);
        code = levee_queue_push(j->source, &r, 1, n + 1, err);
        levee_sim_run_ms(j->sim, 10);
    }
    code = code ? code : levee_drain(j->ctx, 0, err);
    return code ? code : levee_await(j->ctx, err);
}

/* Counts the numbers in all published files, whatever they are called. */
static void read_all(struct job *j)
{
    struct io *io = j->sim->io;
    struct io_list names = {0};
    struct levee_error err = {0};

    ck_assert_int_eq(io->ops->list(io, "out", &names, &err), LEVEE_OK);
    for (size_t i = 0; i < names.count; i++) {
        struct buf b = {0};
        char path[IO_PATH_MAX];
        const char *name = names.items[i].name;
        if (name[0] == '.' || strstr(name, IO_TEMP_SUFFIX)) {
            continue;
        }
        ck_assert_int_eq(io_path(path, "out", name, &err), LEVEE_OK);
        ck_assert_int_eq(io_read_file(io, path, 65536, &b, &err), LEVEE_OK);
        buf_u8(&b, 0);
        for (char *line = strtok((char *)b.data, "\n"); line; line = strtok(NULL, "\n")) {
            long n = strtol(line, NULL, 10);
            ck_assert(n >= 1 && n <= NUMBERS);
            j->seen[n]++;
        }
        buf_release(&b);
        if (strncmp(name, "second-", 7) == 0) {
            j->last_time = strtoll(name + 7, NULL, 10);
            ck_assert_int_eq(j->last_time % 10, 0);
            ck_assert_ptr_nonnull(strstr(name, ".log"));
            j->names_are_times = true;
        }
    }
    io_list_free(&names);
}

START_TEST(a_prepared_file_is_found_under_the_name_it_was_prepared_with)
{
    bool crashed = true;
    uint64_t step = 1;
    unsigned with_times = 0;

    for (; crashed; step++) {
        struct job j = {.files = {.path = "out", .prefix = "first", .value = LEVEE_VALUE_I64}};
        struct levee_error err = {0};
        char line[1024];
        ck_assert_int_eq(
            levee_sim_new(&j.sim, &(struct levee_sim_options){.seed = step, .crash_at_step = step},
                          NULL),
            LEVEE_OK);
        int code = live(&j, &err);
        crashed = levee_sim_crashed(j.sim);
        ck_assert(crashed || code == LEVEE_OK);
        if (crashed) {
            levee_free(j.ctx);
            (step % 2 ? levee_sim_power_loss : levee_sim_kill)(j.sim);
            j.files.prefix = "second";
            j.files.suffix = ".log";
            j.files.name_by_time = true;
            ck_assert_msg(live(&j, &err) == LEVEE_OK, "step %d: %s", (int)step,
                          levee_error_format(&err, line, sizeof line));
        }
        read_all(&j);
        for (int n = 1; n <= NUMBERS; n++) {
            ck_assert_msg(j.seen[n] == 1, "step %d: number %d %u times", (int)step, n, j.seen[n]);
        }
        with_times += j.names_are_times;
        levee_free(j.ctx);
        levee_sim_free(j.sim);
    }
    ck_assert_uint_gt(step, 300);
    ck_assert_uint_gt(with_times, 200);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("files sink");
    TCase *t = tcase_create("files sink");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_prepared_file_is_found_under_the_name_it_was_prepared_with);
    suite_add_tcase(s, t);
    return suite_main(s);
}
