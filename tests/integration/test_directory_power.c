/*
 * Files arrive, move and are read while the power fails or the process dies at any step → every
 * line of every file is published exactly once, in the order of its file.
 *
 * Goal: D1 and D2 of connectors/directory.c, with the ledger, the log, checkpoints and the files
 * sink all on one disk. Method: the simulated machine; a life ends at a step that the seed chooses,
 * unsynced sectors and names are kept, dropped or garbled; then the next life. Files are put in
 * place as a careful writer does (written, synced, renamed, directory synced). Loss: power loss,
 * and process death; both with faults.md 16 and 35 (names that were renamed or made, and not
 * synced). The oracle counts lines, and knows nothing of the source.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if LEVEE_WITH_ZLIB
#include <zlib.h>
#endif

#include "levee/testing.h"
#include "runtime/context.h"
#include "tests/support/suite.h"

#define FILES     14
#define LINES_MAX 120
#define SEEDS     200

static struct {
    struct levee_testing *sim;
    struct io *io;
    levee_context *ctx;
    levee_stream *source;
    uint64_t rng;
    int lines[FILES];
    char name[FILES][24], moving[FILES][24]; /* moving: the name it was last given, perhaps */
    bool put[FILES];
    int seen[FILES]; /* lines published, which must come in order */
} w;

static uint64_t roll(uint64_t n)
{
    return rng_next(&w.rng) % n;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    (void)arg;
    w.source = levee_directory_source(
        ctx, "files",
        &(struct levee_directory_options){
            .path = "in", .recursive = true, .settle_ms = 1, .rescan_ms = 5});
    (void)levee_file_sink(w.source, "out", &(struct levee_file_sink_options){.path = "out"});
    return levee_context_status(ctx, err);
}

static void quiet(void *arg, int level, const char *line)
{
    (void)arg;
    if (getenv("LEVEE_TEST_LOG")) {
        (void)fprintf(stderr, "%d %s\n", level, line);
    }
}

static size_t text_of(int f, char *out)
{
    size_t n = 0;

    for (int i = 0; i < w.lines[f]; i++) {
        n += (size_t)sprintf(out + n, "%d %d %0*d\n", f, i, 1 + (f * 31 + i * 7) % 60, 0);
    }
    return n;
}

static size_t bytes_of(int f, uint8_t *out, size_t cap)
{
    static char text[LINES_MAX * 80];
    size_t n = text_of(f, text);

#if LEVEE_WITH_ZLIB
    if (strstr(w.name[f], ".gz")) {
        z_stream z = {0};
        MUST(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        z.next_in = (Bytef *)text;
        z.avail_in = (uInt)n;
        z.next_out = out;
        z.avail_out = (uInt)cap;
        MUST(deflate(&z, Z_FINISH) == Z_STREAM_END);
        n = cap - z.avail_out;
        (void)deflateEnd(&z);
        return n;
    }
#endif
    MUST(n <= cap);
    memcpy(out, text, n);
    return n;
}

/* Whole, synced, renamed, durable: or the machine has crashed. */
static void put_file(int f)
{
    static uint8_t bytes[LINES_MAX * 80];
    struct iovec iov = {bytes, bytes_of(f, bytes, sizeof bytes)};
    const struct io_ops *ops = w.io->ops;
    char to[64];
    struct io_file *file = NULL;

    (void)snprintf(to, sizeof to, "in/%s", w.name[f]);
    if (ops->open(w.io, "outside", IO_WRITE | IO_CREATE | IO_TRUNCATE, &file, NULL)) {
        return;
    }
    bool ok = (iov.iov_len == 0 || ops->pwritev(file, &iov, 1, 0, NULL) == LEVEE_OK) &&
              ops->sync(file, NULL) == LEVEE_OK;
    ops->close(file);
    ok = ok && ops->rename(w.io, "outside", to, NULL) == LEVEE_OK;
    if (ok && w.ctx) {
        levee_sim_run_ms(w.sim, roll(8)); /* it may be read before its name is durable */
    }
    w.put[f] = ok && ops->sync_dir(w.io, "in", NULL) == LEVEE_OK &&
               ops->sync_dir(w.io, "in/sub", NULL) == LEVEE_OK;
}

/* A put that the crash has cut short may have happened all the same: its name tells. */
static void find_out(void)
{
    for (int f = 0; f < FILES; f++) {
        char path[64];
        struct io_stat st = {0};
        (void)snprintf(path, sizeof path, "in/%s", w.name[f]);
        MUST(w.io->ops->stat(w.io, path, &st, NULL) == LEVEE_OK);
        if (st.kind == IO_NONE && w.moving[f][0]) {
            (void)snprintf(path, sizeof path, "in/%s", w.moving[f]);
            MUST(w.io->ops->stat(w.io, path, &st, NULL) == LEVEE_OK);
            memcpy(w.name[f], w.moving[f], sizeof w.name[f]);
        }
        MUST(st.kind == IO_FILE || !w.put[f]);
        w.moving[f][0] = 0;
        w.put[f] = st.kind == IO_FILE;
    }
}

/* Somebody gives a file another name, durably. */
static void move_file(int f)
{
    char from[64], to[64], name[24];
    const struct io_ops *ops = w.io->ops;

    (void)snprintf(name, sizeof name, "%sm%.16s", roll(2) ? "sub/" : "",
                   strrchr(w.name[f], '/') ? strrchr(w.name[f], '/') + 1 : w.name[f]);
    (void)snprintf(from, sizeof from, "in/%s", w.name[f]);
    (void)snprintf(to, sizeof to, "in/%s", name);
    memcpy(w.moving[f], name, sizeof name);
    if (ops->rename(w.io, from, to, NULL) == LEVEE_OK &&
        ops->sync_dir(w.io, "in", NULL) == LEVEE_OK &&
        ops->sync_dir(w.io, "in/sub", NULL) == LEVEE_OK) {
        memcpy(w.name[f], name, sizeof name);
    }
}

static bool up(void)
{
    struct levee_error err = {0};
    char line[1024];
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 10,
                              .segment_bytes = 64 << 10,
                              .buffer_bytes = 8 << 10,
                              .block_bytes = 2 << 10,
                              .checkpoint_batches = 5,
                              .program_id = "t",
                              .log = quiet,
                              .testing = w.sim};
    int code = levee_get_or_create(&w.ctx, &o, build, NULL, &err);

    if (code == LEVEE_OK && (code = levee_start(w.ctx, &err)) != LEVEE_OK) {
        levee_free(w.ctx);
    }
    if (code) {
        w.ctx = NULL;
        ck_assert_msg(levee_sim_crashed(w.sim), "%s", levee_error_format(&err, line, sizeof line));
    }
    return code == LEVEE_OK;
}

/* Everything that was published so far, from the first batch on. */
static bool judge(char why[200])
{
    struct io_list list = {0};
    struct buf bytes = {0};
    bool fine = true;

    memset(w.seen, 0, sizeof w.seen);
    if (w.io->ops->list(w.io, "out", &list, NULL) != LEVEE_OK) {
        return true; /* nothing yet */
    }
    for (size_t i = 0; i < list.count && fine; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "out/%s", list.items[i].name);
        if (!strstr(path, ".txt") || io_is_temp(path)) {
            continue;
        }
        MUST(io_read_file(w.io, path, 1 << 20, &bytes, NULL) == LEVEE_OK);
        buf_u8(&bytes, 0);
        for (char *at = (char *)bytes.data; *at && fine; at = strchr(at, '\n') + 1) {
            int f = -1, n = -1;
            fine = sscanf(at, "%d %d", &f, &n) == 2 && f >= 0 && f < FILES && n == w.seen[f];
            if (!fine) {
                (void)snprintf(why, 200, "%s: \"%.40s\" after %d lines of file %d", path, at,
                               f >= 0 && f < FILES ? w.seen[f] : -1, f);
            } else {
                w.seen[f]++;
            }
        }
    }
    buf_release(&bytes);
    io_list_free(&list);
    return fine;
}

static bool all_seen(void)
{
    char why[200];
    bool all = judge(why);

    for (int f = 0; f < FILES; f++) {
        all = all && w.seen[f] == w.lines[f];
    }
    return all;
}

static void begin(uint64_t seed)
{
    w.rng = seed;
    ck_assert_int_eq(levee_sim_new(&w.sim, &(struct levee_sim_options){.seed = seed}, NULL), 0);
    w.io = w.sim->io;
    MUST(w.io->ops->mkdir(w.io, "in", NULL) == 0 && w.io->ops->mkdir(w.io, "in/sub", NULL) == 0);
    MUST(w.io->ops->sync_dir(w.io, "in", NULL) == 0 && w.io->ops->sync_dir(w.io, ".", NULL) == 0);
    for (int f = 0; f < FILES; f++) {
        w.lines[f] = roll(5) ? (int)roll(LINES_MAX) : 0;
        (void)snprintf(w.name[f], sizeof w.name[f], "%s%d%s", roll(3) ? "" : "sub/", f,
                       LEVEE_WITH_ZLIB && roll(4) == 0 ? ".gz" : "");
        w.put[f] = false;
        w.moving[f][0] = 0;
    }
}

/* One life: files are put and moved until it ends by itself or by the seed. */
static void live(bool last)
{
    struct levee_error err = {0};
    char line[1024];

    if (up()) {
        for (int i = 0; i < (last ? 400 : 12) && !levee_sim_crashed(w.sim); i++) {
            int f = (int)roll(FILES);
            if (!w.put[f] && (last || roll(2))) {
                put_file(f);
            } else if (w.put[f] && !last && roll(6) == 0 && strlen(w.name[f]) < 10) {
                move_file(f);
            }
            levee_sim_run_ms(w.sim, 1 + roll(12));
            if (last && i % 20 == 19 && all_seen()) {
                break;
            }
        }
        int code = levee_await_for(w.ctx, 1, &err);
        ck_assert_msg(code == LEVEE_ETIMEOUT || levee_sim_crashed(w.sim), "stopped: %s",
                      levee_error_format(&err, line, sizeof line));
        levee_free(w.ctx);
        w.ctx = NULL;
    }
}

/* Returns how many lives the power ended. */
static uint64_t one_history(uint64_t seed, bool power)
{
    char why[200] = "";
    uint64_t crashes = 0;

    begin(seed);
    for (int l = 0; l < 14; l++) {
        levee_sim_set(w.sim, &(struct levee_sim_options){.seed = seed * 100 + (uint64_t)l,
                                                         .crash_at_step =
                                                             power ? 1 + roll(l < 3 ? 60 : 200) : 0,
                                                         .keep_per_mille = (uint32_t)roll(1001),
                                                         .garble_per_mille = (uint32_t)roll(1001)});
        live(false);
        crashes += levee_sim_crashed(w.sim);
        if (power) {
            levee_sim_power_loss(w.sim);
        } else {
            levee_sim_kill(w.sim);
        }
        find_out();
        ck_assert_msg(judge(why), "seed %llu life %d: %s", (unsigned long long)seed, l, why);
    }
    levee_sim_set(w.sim, &(struct levee_sim_options){.seed = seed});
    for (int f = 0; f < FILES; f++) {
        if (!w.put[f]) {
            put_file(f);
        }
    }
    live(true);
    ck_assert_msg(judge(why), "seed %llu: %s", (unsigned long long)seed, why);
    for (int f = 0; f < FILES; f++) {
        ck_assert_msg(w.seen[f] == w.lines[f], "seed %llu: %d of %d lines of %s",
                      (unsigned long long)seed, w.seen[f], w.lines[f], w.name[f]);
    }
    levee_sim_free(w.sim);
    return crashes;
}

static uint64_t seeds(void)
{
    const char *text = getenv("SEEDS");

    return text && *text ? strtoull(text, NULL, 10) : SEEDS;
}

START_TEST(f_power_losses_at_any_step_lose_and_repeat_no_line)
{
    uint64_t crashes = 0;

    for (uint64_t seed = 1; seed <= seeds(); seed++) {
        crashes += one_history(seed, true);
    }
    ck_assert_uint_gt(crashes, 5 * seeds());
}
END_TEST

/* Three files in one group, and every step of a short life: among others the ones between the last
 * record in the log and the ends in the ledger. */
START_TEST(f_every_step_of_a_short_life_is_survived)
{
    for (uint64_t step = 1; step <= 150; step++) {
        char why[200] = "";
        begin(7);
        for (int f = 0; f < FILES; f++) {
            w.lines[f] = f < 3 ? 20 + f : 0;
            if (f < 3) {
                put_file(f);
            }
        }
        levee_sim_set(w.sim, &(struct levee_sim_options){.seed = step,
                                                         .crash_at_step = step,
                                                         .keep_per_mille = step % 3 * 500});
        if (up()) {
            levee_sim_run_ms(w.sim, 300);
            levee_free(w.ctx);
            w.ctx = NULL;
        }
        levee_sim_power_loss(w.sim);
        levee_sim_set(w.sim, &(struct levee_sim_options){.seed = step});
        find_out();
        live(true);
        ck_assert_msg(judge(why) && all_seen(), "step %llu: %s", (unsigned long long)step, why);
        levee_sim_free(w.sim);
    }
}
END_TEST

START_TEST(f_process_deaths_lose_and_repeat_no_line)
{
    for (uint64_t seed = 1; seed <= seeds() / 2; seed++) {
        (void)one_history(seed + 100000, false);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("directory_power");
    TCase *t = tcase_create("power");

    tcase_set_timeout(t, 300);
    tcase_add_test(t, f_power_losses_at_any_step_lose_and_repeat_no_line);
    tcase_add_test(t, f_every_step_of_a_short_life_is_survived);
    tcase_add_test(t, f_process_deaths_lose_and_repeat_no_line);
    suite_add_tcase(s, t);
    return suite_main(s);
}
