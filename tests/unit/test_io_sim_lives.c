/*
 * The simulated machine's faults and crashes (io_sim_files.c S1–S4), and that it repeats: the same
 * seed gives the same image and schedule. A simulator that forgives would make every other test
 * worthless, so publishing also runs with one step left out, and the loss must be seen. Power loss,
 * and kills where said.
 */
#include "tests/unit/test_io_sim.h"

#include <errno.h>

/* ---- faults ---- */

/* S4, faults 67 and 23: what fits is written, the rest is refused, freed space is usable again. */
START_TEST(test_capacity)
{
    struct sim_faults faults = seeded(1, 0, 0);
    struct io_stat st;
    uint64_t space;

    faults.capacity_bytes = 10 * SECTOR;
    open_sim(faults);
    struct io_file *f = must_open("/f", IO_WRITE | IO_CREATE);
    fill(f, 'a', 0, 6);
    ck_assert_int_eq(ops->free_space(io, "/", &space, &err), LEVEE_OK);
    ck_assert_uint_eq(space, 4 * SECTOR);
    struct io_file *g = must_open("/g", IO_WRITE | IO_CREATE);
    uint8_t big[6 * SECTOR] = {1};
    ck_assert_int_eq(try_write(g, big, sizeof big, 0), LEVEE_ENOSPACE);
    ck_assert_int_eq(err.sys_errno, ENOSPC);
    ck_assert_int_eq(ops->fstat(g, &st, &err), LEVEE_OK);
    ck_assert_uint_eq(st.size, 4 * SECTOR);
    fill(f, 'b', 0, 6); /* overwriting needs no room */
    ck_assert_int_eq(try_write(f, "x", 1, 6 * SECTOR), LEVEE_ENOSPACE);
    ck_assert_int_eq(ops->unlink(io, "/g", &err), LEVEE_OK);
    ck_assert_int_eq(try_write(f, "x", 1, 6 * SECTOR), LEVEE_ENOSPACE); /* still open */
    ops->close(g);
    ck_assert_int_eq(try_write(f, "x", 1, 6 * SECTOR), LEVEE_OK);
    ck_assert_int_eq(ops->truncate(f, 2 * SECTOR, &err), LEVEE_OK);
    ck_assert_int_eq(ops->free_space(io, "/", &space, &err), LEVEE_OK);
    ck_assert_uint_eq(space, 8 * SECTOR);
    ops->close(f);
    io_free(io);
}
END_TEST

/* S2: the n-th step fails, once, and nothing else does. Reads are no steps and have a counter. */
START_TEST(test_an_error_at_the_nth_step)
{
    struct sim_faults faults = seeded(1, 0, 0);
    struct io_file *f = NULL;
    uint8_t got[4];
    size_t n;

    open_sim(faults);
    ops->close(durable_file("/f", 'a', 1));
    ck_assert_uint_eq(io_sim_steps(io), 4); /* create, write, sync, sync_dir */
    for (uint64_t nth = 1; nth <= 6; nth++) {
        faults.fail_at_step = nth;
        faults.fail_errno = nth % 2 == 0 ? ENOSPC : EROFS;
        int expected = nth % 2 == 0 ? LEVEE_ENOSPACE : LEVEE_EACCESS;
        io_sim_set_faults(io, &faults);
        f = must_open("/f", IO_WRITE);
        int rcs[] = {
            try_write(f, "x", 1, 0),           ops->truncate(f, 600, &err),
            ops->rename(io, "/f", "/g", &err), ops->mkdir(io, "/d", &err),
            ops->sync_dir(io, "/", &err),
        };
        ops->close(f);
        ck_assert_uint_eq(io_sim_steps(io), 5);
        for (uint64_t i = 0; i < ARRAY_LEN(rcs); i++) {
            ck_assert_int_eq(rcs[i], i + 1 == nth ? expected : LEVEE_OK);
        }
        ck_assert_int_eq(exists("/d"), nth != 4);
        ck_assert_int_eq(exists("/f"), nth == 3);
        io_sim_power_loss(io); /* nth 5: the directory was not synced */
        ck_assert_int_eq(exists("/f"), nth == 3 || nth == 5);
        io_free(io);
        open_sim(seeded(1, 0, 0));
        ops->close(durable_file("/f", 'a', 1));
    }
    faults = seeded(1, 0, 0);
    faults.fail_at_read = 2;
    io_sim_set_faults(io, &faults);
    f = must_open("/f", IO_READ);
    ck_assert_int_eq(ops->pread(f, got, 4, 0, &n, &err), LEVEE_OK);
    ck_assert_int_eq(ops->pread(f, got, 4, 0, &n, &err), LEVEE_EIO);
    ck_assert_int_eq(ops->pread(f, got, 4, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(io_sim_reads(io), 3);
    ops->close(f);
    io_free(io);
}
END_TEST

/* Fault 44. */
START_TEST(test_bad_sectors)
{
    uint8_t got[8 * SECTOR];
    size_t n = 0;

    open_sim(seeded(1, 0, 0));
    ops->close(durable_file("/f", 'a', 8));
    io_sim_bad_range(io, "/f", 3 * SECTOR, SECTOR);
    struct io_file *f = must_open("/f", IO_READ);
    ck_assert_int_eq(ops->pread(f, got, 3 * SECTOR, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 3 * SECTOR);
    ck_assert_int_eq(ops->pread(f, got, 3 * SECTOR + 1, 0, &n, &err), LEVEE_EIO);
    ck_assert_int_eq(ops->pread(f, got, 1, 4 * SECTOR - 1, &n, &err), LEVEE_EIO);
    ck_assert_int_eq(ops->pread(f, got, 4 * SECTOR, 4 * SECTOR, &n, &err), LEVEE_OK);
    io_sim_bad_range(io, "/f", 0, 0);
    ck_assert_int_eq(ops->pread(f, got, sizeof got, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, sizeof got);
    ops->close(f);
    io_free(io);
}
END_TEST

START_TEST(test_damage_through_a_pointer_is_durable)
{
    uint64_t size = 0;
    char got = 0;
    size_t n;

    open_sim(seeded(1, 0, 0));
    ops->close(durable_file("/f", 'a', 2));
    ck_assert_ptr_null(io_sim_bytes(io, "/none", &size));
    ck_assert_ptr_null(io_sim_bytes(io, "/", &size));
    uint8_t *bytes = io_sim_bytes(io, "/f", &size);
    ck_assert_uint_eq(size, 2 * SECTOR);
    bytes[700] ^= 1;
    io_sim_power_loss(io);
    struct io_file *f = must_open("/f", IO_READ);
    ck_assert_int_eq(ops->pread(f, &got, 1, 700, &n, &err), LEVEE_OK);
    ck_assert_int_eq(got, 'a' ^ 1);
    ops->close(f);
    io_free(io);
}
END_TEST

/* ---- crashes ---- */

static int tasks_run;

static void count_run(struct io_task *task)
{
    (void)task;
    tasks_run++;
}

static void crash_run(struct io_task *task)
{
    (void)task;
    tasks_run++;
    io_sim_crash(io);
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

/* S1: everything fails and nothing changes; no task runs; objects can be closed. */
START_TEST(test_after_a_crash_nothing_works)
{
    struct io_task crasher = {.run = crash_run};
    struct io_task tasks[3] = {{.run = count_run}, {.run = count_run}, {.run = count_run}};
    struct io_lane *lane = NULL;
    struct io_lane *none = NULL;
    struct io_file *other = NULL;
    struct io_lock *lock = NULL;
    struct io_lock *no_lock = NULL;
    struct io_list list = {0};
    struct io_stat st;
    uint64_t space;
    const char *type;
    char got;
    size_t n;

    open_sim(seeded(1, 1000, 0));
    struct io_file *f = durable_file("/f", 'a', 1);
    ck_assert_int_eq(ops->lane_open(io, "lane", &lane, &err), LEVEE_OK);
    ck_assert_int_eq(ops->lock(io, "/lock", &lock, &err), LEVEE_OK);
    ops->lane_post(lane, &crasher);
    ops->lane_post(lane, &tasks[0]);
    ops->lane_post_at(lane, &tasks[1], ops->now_ns(io) + 5);
    tasks_run = 0;
    uint64_t start = ops->now_ns(io);
    ck_assert(!ops->wait(io, never, NULL, UINT64_MAX));
    ck_assert_int_eq(tasks_run, 1);
    ck_assert(io_sim_crashed(io));
    ops->lane_post(lane, &tasks[2]);
    ck_assert(!io_sim_step(io));
    io_sim_run(io, start + 100);
    ck_assert(!ops->wait(io, never, NULL, start + 100));
    for (int i = 0; i < 3; i++) {
        ck_assert(!tasks[i].queued);
    }
    int rcs[] = {
        ops->open(io, "/f", IO_READ, &other, &err),
        ops->pread(f, &got, 1, 0, &n, &err),
        try_write(f, "z", 1, 0),
        ops->sync(f, &err),
        ops->write_back(f, 0, 1, &err),
        ops->truncate(f, 0, &err),
        ops->fstat(f, &st, &err),
        ops->stat(io, "/f", &st, &err),
        ops->rename(io, "/f", "/g", &err),
        ops->link(io, "/f", "/g", &err),
        ops->unlink(io, "/f", &err),
        ops->mkdir(io, "/d", &err),
        ops->sync_dir(io, "/", &err),
        ops->list(io, "/", &list, &err),
        ops->free_space(io, "/", &space, &err),
        ops->fs_type(io, "/", &type, &err),
        ops->lock(io, "/l", &no_lock, &err),
        ops->lane_open(io, "x", &none, &err),
    };
    for (size_t i = 0; i < ARRAY_LEN(rcs); i++) {
        ck_assert_msg(rcs[i] == LEVEE_ECRASHED, "call %zu gave %d", i, rcs[i]);
    }
    ops->close(f);
    ops->unlock(lock);
    ops->lane_close(lane);
    ck_assert_int_eq(tasks_run, 1);
    io_sim_power_loss(io);
    ck_assert(!io_sim_crashed(io));
    uint64_t size;
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 0), 'a');
    ck_assert(!exists("/d"));
    ck_assert_int_eq(ops->lock(io, "/lock", &lock, &err), LEVEE_OK); /* the lock died too */
    ops->unlock(lock);
    io_free(io);
}
END_TEST

/* S1, faults 2 and 25: a crash in a write of n sectors leaves each possible number of leading ones.
 */
START_TEST(test_a_crash_in_a_write_leaves_a_prefix)
{
    enum { COUNT = 6 };
    bool seen[COUNT + 1] = {false};
    uint8_t data[COUNT * SECTOR];
    uint64_t size;

    memset(data, 'b', sizeof data);
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct sim_faults faults = seeded(seed, 0, 0);
        open_sim(faults);
        struct io_file *f = durable_file("/f", 'a', COUNT);
        faults.crash_at_step = 1;
        io_sim_set_faults(io, &faults);
        ck_assert_int_eq(try_write(f, data, sizeof data, 0), LEVEE_ECRASHED);
        ck_assert(io_sim_crashed(io));
        ops->close(f);
        io_sim_kill(io);
        const uint8_t *bytes = bytes_of("/f", &size);
        size_t written = 0;
        while (written < COUNT && letter_of(bytes, written) == 'b') {
            written++;
        }
        for (size_t s = written; s < COUNT; s++) {
            ck_assert_int_eq(letter_of(bytes, s), 'a');
        }
        seen[written] = true;
        io_free(io);
    }
    for (int i = 0; i <= COUNT; i++) {
        ck_assert_msg(seen[i], "never %d sectors", i);
    }
}
END_TEST

/* ---- publishing, whole and with a step left out ---- */

enum left_out { NOTHING, FILE_SYNC, DIR_SYNC, RENAME };

/* io_publish as it would be without one of its steps. */
static int publish_without(enum left_out what, struct levee_slice data)
{
    struct io_file *f = NULL;
    const char *name = what == RENAME ? "/d/f" : "/d/f.tmp";
    int rc = ops->open(io, name, IO_WRITE | IO_CREATE | IO_TRUNCATE, &f, &err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = try_write(f, data.data, data.len, 0);
    if (rc == LEVEE_OK && what != FILE_SYNC) {
        rc = ops->sync(f, &err);
    }
    ops->close(f);
    if (rc == LEVEE_OK && what != RENAME) {
        rc = ops->rename(io, "/d/f.tmp", "/d/f", &err);
    }
    if (rc == LEVEE_OK && what != DIR_SYNC) {
        rc = ops->sync_dir(io, "/d", &err);
    }
    return rc;
}

struct tally {
    int lives, old, new, torn, lost; /* torn: neither; lost: published, but not there */
};

/* One life: publish old, publish new until the crash at the given step (0: after it), look. */
static void publish_life(enum left_out what, uint64_t seed, uint64_t step, bool power,
                         struct tally *tally)
{
    static char old_text[3000];
    static char new_text[4000];
    struct buf got = {0};
    struct sim_faults faults = seeded(seed, 500, 200);

    memset(old_text, 'o', sizeof old_text);
    memset(new_text, 'n', sizeof new_text);
    open_sim(faults);
    ck_assert_int_eq(ops->mkdir(io, "/d", &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    ck_assert_int_eq(io_publish(io, "/d", "f", slice_of(old_text, sizeof old_text), &err),
                     LEVEE_OK);
    faults.crash_at_step = step;
    io_sim_set_faults(io, &faults);
    struct levee_slice data = slice_of(new_text, sizeof new_text);
    int rc = what == NOTHING ? io_publish(io, "/d", "f", data, &err) : publish_without(what, data);
    if (rc != LEVEE_OK) {
        ck_assert_int_eq(rc, LEVEE_ECRASHED);
    }
    if (power) {
        io_sim_power_loss(io);
    } else {
        io_sim_kill(io);
    }
    tally->lives++;
    int read = io_read_file(io, "/d/f", 1 << 20, &got, &err);
    if (read == LEVEE_OK && slice_eq(buf_view(&got), data)) {
        tally->new ++;
    } else if (read == LEVEE_OK && slice_eq(buf_view(&got), slice_of(old_text, sizeof old_text))) {
        tally->old++;
        tally->lost += rc == LEVEE_OK;
    } else {
        tally->torn++;
    }
    buf_release(&got);
    io_free(io);
}

/* The protocol holds at every step under every loss: old or new, and new once it has returned. */
START_TEST(test_publish_survives_a_crash_at_every_step)
{
    struct tally tally = {0};

    for (uint64_t step = 0; step <= 6; step++) { /* it has five */
        for (uint64_t seed = 0; seed < 40; seed++) {
            publish_life(NOTHING, seed, step, seed % 4 != 0, &tally);
        }
    }
    ck_assert_int_eq(tally.torn, 0);
    ck_assert_int_eq(tally.lost, 0);
    ck_assert_int_gt(tally.old, 20);
    ck_assert_int_gt(tally.new, 20);
}
END_TEST

/* And the simulator notices when a step is missing. */
START_TEST(test_a_step_left_out_is_noticed)
{
    struct tally no_sync = {0};
    struct tally no_dir = {0};
    struct tally no_rename = {0};

    for (uint64_t step = 0; step <= 4; step++) {
        for (uint64_t seed = 0; seed < 40; seed++) {
            publish_life(FILE_SYNC, seed, step, true, &no_sync);
            publish_life(DIR_SYNC, seed, step, true, &no_dir);
            publish_life(RENAME, seed, step, true, &no_rename);
        }
    }
    ck_assert_int_gt(no_sync.torn, 0);
    ck_assert_int_gt(no_dir.lost, 0);
    ck_assert_int_eq(no_dir.torn, 0);
    ck_assert_int_gt(no_rename.torn, 0);
}
END_TEST

/* Every error at every step, every failing allocation: old or new, an error or success, no leak. */
START_TEST(test_publish_survives_an_error_at_every_step)
{
    struct buf got = {0};
    int no_memory = 0;

    for (uint64_t nth = 1; nth <= 40; nth++) {
        struct sim_faults faults = seeded(nth, 1000, 0);
        int64_t live = mem_live();
        open_sim(faults);
        ck_assert_int_eq(io_publish(io, "/", "f", slice_str("old"), &err), LEVEE_OK);
        if (nth <= 6) {
            faults.fail_at_step = nth;
            faults.fail_errno = EIO;
            io_sim_set_faults(io, &faults);
        } else {
            mem_fail_at(nth - 6);
        }
        int rc = io_publish(io, "/", "f", slice_str("new"), &err);
        mem_fail_at(0);
        ck_assert_int_eq(io_read_file(io, "/f", 10, &got, &err), LEVEE_OK);
        ck_assert_uint_eq(got.len, 3);
        if (rc == LEVEE_OK) {
            ck_assert_mem_eq(got.data, "new", 3);
        } else {
            ck_assert_int_eq(rc, nth <= 6 ? LEVEE_EIO : LEVEE_ENOMEM);
            no_memory += rc == LEVEE_ENOMEM;
        }
        if (nth <= 4) {
            ck_assert_int_eq(rc, LEVEE_EIO);
            ck_assert_mem_eq(got.data, "old", 3);
        }
        ck_assert(!exists("/f.tmp"));
        buf_release(&got);
        io_free(io);
        ck_assert_int_eq(mem_live(), live);
    }
    ck_assert_int_gt(no_memory, 5);
    ck_assert_int_lt(no_memory, 34); /* the last ones found nothing left to fail */
}
END_TEST

/* ---- clocks and the schedule ---- */

struct traced {
    struct io_task task;
    struct io_lane *lane;
    int number;
    int left; /* how often it still posts itself */
};

static uint64_t trace; /* a hash of what ran when */
static int trace_len;
static int first_ran;

static void traced_run(struct io_task *task)
{
    struct traced *t = CONTAINER_OF(task, struct traced, task);
    uint64_t event[3] = {(uint64_t)t->number, ops->now_ns(io), ops->random(io)};

    if (trace_len == 0) {
        first_ran = t->number;
    }
    trace = hash64(event, sizeof event, trace);
    trace_len++;
    if (t->left-- > 0) {
        if (event[2] % 3 == 0) {
            ops->lane_post_at(t->lane, &t->task, event[1] + event[2] % 1000);
        } else {
            ops->lane_post(t->lane, &t->task);
        }
    }
    char path[32];
    snprintf(path, sizeof path, "/f%d", t->number);
    struct io_file *f = NULL;
    if (ops->open(io, path, IO_WRITE | IO_CREATE, &f, NULL) == LEVEE_OK) {
        (void)try_write(f, event, sizeof event, event[2] % 5000);
        if (event[2] % 4 == 0) {
            (void)ops->sync(f, NULL);
        }
        ops->close(f);
    }
    if (event[2] % 8 == 0) {
        (void)ops->sync_dir(io, "/", NULL);
    }
}

/* Four lanes that write, sync and post until a crash; returns the image. */
static uint64_t chaos(uint64_t seed)
{
    struct sim_faults faults = seeded(seed, 500, 100);
    struct traced tasks[8];
    struct io_lane *lanes[4];

    faults.crash_at_step = 60;
    faults.short_write_per_mille = 200;
    faults.eintr_per_mille = 100;
    open_sim(faults);
    trace = 0;
    trace_len = 0;
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(ops->lane_open(io, "x", &lanes[i], &err), LEVEE_OK);
    }
    for (int i = 0; i < 8; i++) {
        tasks[i] =
            (struct traced){.task.run = traced_run, .lane = lanes[i % 4], .number = i, .left = 20};
        ops->lane_post(lanes[i % 4], &tasks[i].task);
    }
    io_sim_run(io, UINT64_MAX - 1);
    ck_assert(io_sim_crashed(io));
    for (int i = 0; i < 4; i++) {
        ops->lane_close(lanes[i]);
    }
    io_sim_power_loss(io);
    uint64_t image = io_sim_image_hash(io);
    io_free(io);
    return image;
}

START_TEST(test_the_same_seed_repeats_schedule_and_image)
{
    enum { SEEDS = 30 };
    uint64_t images[SEEDS];
    uint64_t traces[SEEDS];
    int firsts[8] = {0};

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        images[seed] = chaos(seed);
        traces[seed] = trace;
        firsts[first_ran]++;
        ck_assert_uint_eq(chaos(seed), images[seed]);
        ck_assert_uint_eq(trace, traces[seed]);
        for (uint64_t other = 0; other < seed; other++) {
            ck_assert_uint_ne(traces[seed], traces[other]);
            ck_assert_uint_ne(images[seed], images[other]);
        }
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_int_gt(firsts[i], 0);     /* each lane goes first sometimes, … */
        ck_assert_int_eq(firsts[i + 4], 0); /* … always with its first task */
    }
}
END_TEST

START_TEST(test_set_faults_with_the_old_seed_does_not_reseed)
{
    uint64_t drawn[2][4];

    for (int reset = 0; reset < 2; reset++) {
        open_sim(seeded(9, 0, 0));
        for (int i = 0; i < 4; i++) {
            if (reset == 1 && i == 2) {
                reseed(9, 500, 0);
            }
            drawn[reset][i] = ops->random(io);
        }
        io_free(io);
    }
    ck_assert_mem_eq(drawn[0], drawn[1], sizeof drawn[0]);
    open_sim(seeded(8, 0, 0));
    reseed(9, 0, 0);
    ck_assert_uint_eq(ops->random(io), drawn[0][0]);
    io_free(io);
}
END_TEST

START_TEST(test_virtual_time)
{
    struct io_task early = {.run = count_run};
    struct io_task late = {.run = count_run};
    struct io_lane *lane = NULL;

    open_sim(seeded(1, 0, 0));
    ck_assert_int_eq(ops->lane_open(io, "t", &lane, &err), LEVEE_OK);
    uint64_t start = ops->now_ns(io);
    int64_t wall = ops->wall_ms(io);
    ck_assert_int_eq(wall, INT64_C(1704067200000));
    tasks_run = 0;
    ops->lane_post_at(lane, &early, start + 10000000);
    ops->lane_post_at(lane, &late, start + 30000000);
    io_sim_run(io, start + 20000000);
    ck_assert_int_eq(tasks_run, 1);
    ck_assert_uint_eq(ops->now_ns(io), start + 20000000);
    ck_assert_int_eq(ops->wall_ms(io), wall + 20);
    ck_assert(!ops->wait(io, never, NULL, start + 25000000));
    ck_assert_uint_eq(ops->now_ns(io), start + 25000000);
    ck_assert_int_eq(tasks_run, 1);
    ck_assert(io_sim_step(io));
    ck_assert_int_eq(tasks_run, 2);
    ck_assert_uint_eq(ops->now_ns(io), start + 30000000);
    ck_assert(!io_sim_step(io));
    ck_assert(!ops->wait(io, never, NULL, UINT64_MAX)); /* nothing left: it does not hang */
    io_sim_set_wall(io, 5);                             /* fault 107: back to 1970 */
    ck_assert_int_eq(ops->wall_ms(io), 5);
    ck_assert_uint_eq(ops->now_ns(io), start + 30000000);
    ops->lane_close(lane);
    io_free(io);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_sim_lives");
    TCase *faults = tcase_create("faults");
    TCase *lives = tcase_create("lives");
    TCase *schedule = tcase_create("schedule");

    tcase_add_test(faults, test_capacity);
    tcase_add_test(faults, test_an_error_at_the_nth_step);
    tcase_add_test(faults, test_bad_sectors);
    tcase_add_test(faults, test_damage_through_a_pointer_is_durable);
    suite_add_tcase(suite, faults);
    tcase_set_timeout(lives, 60);
    tcase_add_test(lives, test_after_a_crash_nothing_works);
    tcase_add_test(lives, test_a_crash_in_a_write_leaves_a_prefix);
    tcase_add_test(lives, test_publish_survives_a_crash_at_every_step);
    tcase_add_test(lives, test_a_step_left_out_is_noticed);
    tcase_add_test(lives, test_publish_survives_an_error_at_every_step);
    suite_add_tcase(suite, lives);
    tcase_set_timeout(schedule, 60);
    tcase_add_test(schedule, test_the_same_seed_repeats_schedule_and_image);
    tcase_add_test(schedule, test_set_faults_with_the_old_seed_does_not_reseed);
    tcase_add_test(schedule, test_virtual_time);
    suite_add_tcase(suite, schedule);
    return suite_main(suite);
}
