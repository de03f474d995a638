/*
 * The simulator: a disk, a clock and a schedule from one seed, single-threaded.
 *
 * Lives. A test creates one io and runs the program on it. At the step it asked for (or when it
 * calls io_sim_crash) the machine crashes: every call fails, no task runs any more. The test frees
 * the program's objects and says what the crash was: a power loss, which resolves all that was not
 * synced, or a kill, which keeps every written byte but leaves unsynced what was unsynced, so that
 * a power loss in a later life can still take it (design 4d.2). Then the next life starts on what
 * is left. A program that was not crashed must be closed orderly before.
 *
 * Schedule. A step takes one lane at random among those with a ready task and runs the first of its
 * tasks to its end. Time stands still meanwhile, but for syncs made slow; when no task is ready it
 * jumps to the next timed one. So a run depends on the seed and the program alone, and repeats
 * exactly. The disk, the schedule and the program's random numbers draw from streams of their own:
 * more faults do not shift the schedule.
 */
#include "io/io_sim.h"

#include <unistd.h>

/* 2024-01-01 00:00:00 UTC, and a boot-time clock that is past zero so that 0 can mean "never". */
#define WALL_START_MS  INT64_C(1704067200000)
#define CLOCK_START_NS UINT64_C(1000000000)
#define NS_PER_MS      1000000

struct io_lane {
    struct sim_io *sim;
    struct io_lane *next;
    struct io_queue queue;
    bool closing;
};

bool sim_chance(uint64_t *rng, uint32_t per_mille)
{
    return per_mille > 0 && rng_next(rng) % 1000 < per_mille;
}

/* ---- clocks and randomness ---- */

static uint64_t sim_now_ns(struct io *io)
{
    return sim_io(io)->now_ns;
}

static int64_t sim_wall_ms(struct io *io)
{
    const struct sim_io *sim = sim_io(io);

    return sim->wall_base_ms + (int64_t)(sim->now_ns / NS_PER_MS);
}

static uint64_t sim_random(struct io *io)
{
    return rng_next(&sim_io(io)->random_rng);
}

void io_sim_set_wall(struct io *io, int64_t wall_ms)
{
    struct sim_io *sim = sim_io(io);

    ASSERT(io->simulated);
    sim->wall_base_ms = wall_ms - (int64_t)(sim->now_ns / NS_PER_MS);
}

/* ---- the schedule ---- */

static int sim_lane_open(struct io *io, const char *name, struct io_lane **ret,
                         struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);

    (void)name;
    if (sim->crashed) {
        return err_set(err, LEVEE_ECRASHED, "the simulated machine has crashed");
    }
    struct io_lane *lane = mem_zalloc(sizeof *lane);
    if (lane == NULL) {
        return err_nomem(err, sizeof *lane);
    }
    lane->sim = sim;
    io_queue_init(&lane->queue);
    *sim->lanes_tail = lane;
    sim->lanes_tail = &lane->next;
    *ret = lane;
    return LEVEE_OK;
}

static void sim_lane_post(struct io_lane *lane, struct io_task *task)
{
    if (!lane->sim->crashed) {
        io_queue_push(&lane->queue, task);
    }
}

static void sim_lane_post_at(struct io_lane *lane, struct io_task *task, uint64_t due_ns)
{
    if (!lane->sim->crashed) {
        io_queue_push_at(&lane->queue, task, due_ns);
    }
}

static bool sim_lane_cancel(struct io_lane *lane, struct io_task *task)
{
    ASSERT(lane->sim->current == lane);
    return io_queue_cancel(&lane->queue, task);
}

static bool sim_lane_current(struct io_lane *lane)
{
    return lane->sim->current == lane;
}

static void run_first(struct io_lane *lane)
{
    struct sim_io *sim = lane->sim;
    struct io_lane *before = sim->current; /* not NULL when a task closes another lane */
    struct io_task *task = io_queue_pop(&lane->queue);

    sim->current = lane;
    task->run(task);
    sim->current = before;
}

static void sim_lane_close(struct io_lane *lane)
{
    struct sim_io *sim = lane->sim;
    struct io_lane **at = &sim->lanes;

    ASSERT(sim->current != lane);
    ASSERT(!lane->closing);
    lane->closing = true;
    /* After a crash the queue is empty, and the tasks' owners may be gone. */
    io_queue_drop_timed(&lane->queue);
    while (lane->queue.ready.head != NULL) {
        run_first(lane);
        io_queue_drop_timed(&lane->queue);
    }
    while (*at != lane) {
        at = &(*at)->next;
    }
    *at = lane->next;
    if (sim->lanes_tail == &lane->next) {
        sim->lanes_tail = at;
    }
    mem_free(lane);
}

/* Makes due tasks ready; *ret_due is when the next one is. Returns how many lanes can run. */
static uint32_t runnable(struct sim_io *sim, uint64_t *ret_due)
{
    uint32_t count = 0;

    *ret_due = UINT64_MAX;
    for (struct io_lane *lane = sim->lanes; lane != NULL; lane = lane->next) {
        io_queue_expire(&lane->queue, sim->now_ns);
        uint64_t due = io_queue_due(&lane->queue);
        *ret_due = due < *ret_due ? due : *ret_due;
        count += lane->queue.ready.head != NULL;
    }
    return count;
}

/* Runs one task of those ready before the limit. false: there is none. */
static bool step_before(struct sim_io *sim, uint64_t limit_ns)
{
    uint64_t due;

    if (sim->crashed) {
        return false;
    }
    uint32_t ready = runnable(sim, &due);
    if (ready == 0) {
        if (due == UINT64_MAX || due > limit_ns) {
            return false;
        }
        sim->now_ns = due;
        ready = runnable(sim, &due);
    }
    ASSERT(ready > 0); /* what is due has become runnable */
    uint64_t skip = rng_next(&sim->schedule_rng) % ready;
    struct io_lane *lane = sim->lanes;
    while (lane->queue.ready.head == NULL || skip > 0) {
        skip -= lane->queue.ready.head != NULL;
        lane = lane->next;
    }
    run_first(lane);
    return true;
}

bool io_sim_step(struct io *io)
{
    ASSERT(io->simulated);
    ASSERT(sim_io(io)->current == NULL);
    return step_before(sim_io(io), UINT64_MAX);
}

static void advance_to(struct sim_io *sim, uint64_t now_ns)
{
    if (!sim->crashed && now_ns > sim->now_ns) {
        sim->now_ns = now_ns;
    }
}

void io_sim_run(struct io *io, uint64_t until_ns)
{
    struct sim_io *sim = sim_io(io);

    ASSERT(io->simulated);
    ASSERT(sim->current == NULL);
    while (step_before(sim, until_ns)) {
        /* a slow sync may carry time past the end; what is ready then still runs */
    }
    advance_to(sim, until_ns);
}

static bool sim_wait(struct io *io, bool (*done)(void *arg), void *arg, uint64_t deadline_ns)
{
    struct sim_io *sim = sim_io(io);

    ASSERT(sim->current == NULL);
    while (!done(arg)) {
        if (sim->now_ns >= deadline_ns) {
            return false;
        }
        if (!step_before(sim, deadline_ns)) {
            /* Nothing can change it any more: the time-out passes, if there is one. */
            if (deadline_ns != UINT64_MAX) {
                advance_to(sim, deadline_ns);
            }
            return done(arg);
        }
    }
    return true;
}

static void sim_notify(struct io *io)
{
    (void)io; /* wait looks after every task */
}

/* ---- lives ---- */

void sim_crash(struct sim_io *sim)
{
    sim->crashed = true;
    /* Here every queued task is still alive; when its lane is closed it may be gone. */
    for (struct io_lane *lane = sim->lanes; lane != NULL; lane = lane->next) {
        io_queue_drop_all(&lane->queue);
    }
}

void io_sim_crash(struct io *io)
{
    ASSERT(io->simulated);
    if (!sim_io(io)->crashed) {
        sim_crash(sim_io(io));
    }
}

bool io_sim_crashed(const struct io *io)
{
    ASSERT(io->simulated);
    return sim_io_const(io)->crashed;
}

uint64_t io_sim_steps(const struct io *io)
{
    ASSERT(io->simulated);
    return sim_io_const(io)->steps;
}

uint64_t io_sim_reads(const struct io *io)
{
    ASSERT(io->simulated);
    return sim_io_const(io)->reads;
}

uint64_t io_sim_image_hash(const struct io *io)
{
    ASSERT(io->simulated);
    return sim_io_const(io)->image_hash;
}

static void begin_next_life(struct sim_io *sim)
{
    sim->crashed = false;
    sim->image_hash = sim_image_hash(&sim->disk);
}

/* The old life's objects point into what is about to change. */
static void check_nothing_open(const struct sim_io *sim)
{
    ASSERT(sim->open_files == 0);
    ASSERT(sim->open_locks == 0);
    ASSERT(sim->lanes == NULL);
}

void io_sim_power_loss(struct io *io)
{
    struct sim_io *sim = sim_io(io);
    const struct sim_faults *faults = &sim->faults;

    ASSERT(io->simulated);
    check_nothing_open(sim);
    for (struct sim_inode *inode = sim->disk.inodes; inode != NULL; inode = inode->next) {
        sim_inode_resolve(inode, &sim->disk_rng, faults->keep_per_mille, faults->garble_per_mille);
    }
    sim_names_resolve(&sim->disk, &sim->disk_rng, faults->keep_per_mille);
    begin_next_life(sim);
}

void io_sim_kill(struct io *io)
{
    ASSERT(io->simulated);
    check_nothing_open(sim_io(io));
    begin_next_life(sim_io(io));
}

/* ---- reaching into the image ---- */

static struct sim_inode *file_at(struct io *io, const char *path)
{
    struct sim_place at;

    ASSERT(io->simulated);
    if (sim_find(&sim_io(io)->disk, path, &at) != 0 || at.inode == NULL ||
        at.inode->kind != IO_FILE) {
        return NULL;
    }
    return at.inode;
}

uint8_t *io_sim_bytes(struct io *io, const char *path, uint64_t *ret_size)
{
    static uint8_t nothing;
    struct sim_inode *inode = file_at(io, path);

    if (inode == NULL) {
        return NULL;
    }
    *ret_size = inode->now_size;
    return inode->now != NULL ? inode->now : &nothing;
}

void io_sim_bad_range(struct io *io, const char *path, uint64_t offset, uint64_t len)
{
    struct sim_inode *inode = file_at(io, path);

    ASSERT(inode != NULL);
    inode->bad_offset = offset;
    inode->bad_len = len;
}

/* ---- the object ---- */

static void sim_free(struct io *io)
{
    struct sim_io *sim = sim_io(io);

    check_nothing_open(sim);
    sim_names_release(&sim->disk);
    mem_free(sim);
}

static const struct io_ops sim_ops = {
    .version = 1,
    .open = sim_open,
    .close = sim_close,
    .pread = sim_pread,
    .pwritev = sim_pwritev,
    .sync = sim_sync,
    .write_back = sim_write_back,
    .truncate = sim_truncate,
    .fstat = sim_fstat,
    .stat = sim_stat,
    .rename = sim_rename,
    .link = sim_link,
    .unlink = sim_unlink,
    .mkdir = sim_mkdir,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .free_space = sim_free_space,
    .lock = sim_lock,
    .unlock = sim_unlock,
    .now_ns = sim_now_ns,
    .wall_ms = sim_wall_ms,
    .random = sim_random,
    .lane_open = sim_lane_open,
    .lane_post = sim_lane_post,
    .lane_post_at = sim_lane_post_at,
    .lane_cancel = sim_lane_cancel,
    .lane_close = sim_lane_close,
    .lane_current = sim_lane_current,
    .wait = sim_wait,
    .notify = sim_notify,
    .free = sim_free,
    .fs_type = sim_fs_type,
};

static void seed_streams(struct sim_io *sim, uint64_t seed)
{
    sim->disk_rng = hash64("disk", 4, seed);
    sim->schedule_rng = hash64("schedule", 8, seed);
    sim->random_rng = hash64("random", 6, seed);
}

void io_sim_set_faults(struct io *io, const struct sim_faults *faults)
{
    struct sim_io *sim = sim_io(io);

    ASSERT(io->simulated);
    if (faults->seed != sim->faults.seed) {
        seed_streams(sim, faults->seed);
    }
    sim->faults = *faults;
    sim->steps = 0;
    sim->reads = 0;
}

int io_sim_new(const struct sim_faults *faults, struct io **ret, struct levee_error *err)
{
    struct sim_io *sim = mem_zalloc(sizeof *sim);

    if (sim == NULL) {
        return err_nomem(err, sizeof *sim);
    }
    sim->head.ops = &sim_ops;
    sim->head.pid = (uint32_t)getpid();
    sim->head.simulated = true;
    sim->lanes_tail = &sim->lanes;
    sim->now_ns = CLOCK_START_NS;
    io_sim_set_wall(&sim->head, WALL_START_MS);
    sim->faults = *faults;
    seed_streams(sim, faults->seed);
    if (sim_names_init(&sim->disk) != 0) {
        mem_free(sim);
        return err_nomem(err, sizeof(struct sim_inode));
    }
    *ret = &sim->head;
    return LEVEE_OK;
}
