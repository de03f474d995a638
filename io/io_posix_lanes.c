/*
 * Lanes as threads, and waiting for something to come true.
 *
 * A lane is one thread with a queue under a mutex. It runs ready tasks in order; a timed task joins
 * the ready ones when it is due; with nothing to do the thread sleeps on the lane's condition.
 * Tasks are threaded through their owners, so a post takes no memory and cannot fail.
 *
 *   L1  A task is off the queue, and never touched again, before it runs: it may free itself or
 *       post itself again.
 *   L2  close runs what is queued, and what those tasks post to their own lane, drops what is
 *       timed, and returns when the thread has ended. Nobody else may post once close was
 *       called.
 *   L3  Due times are on the boot-time clock, but a condition can only sleep on the monotonic
 *       one, which stands still while the machine is suspended. Sleeps are therefore cut into
 *       pieces of a second, after each of which the boot-time clock is looked at again.
 *   L4  All signals a handler of the host may be waiting for stay with the host's threads: they
 *       are blocked on lanes. Only those that a thread raises against itself by a fault stay
 *       open.
 *   L5  `done` is evaluated with no lock of ours held, so it may take any lock, and notify may
 *       be called under any lock. A turn counter closes the gap between evaluating and sleeping.
 */
#define _GNU_SOURCE /* pthread_setname_np */
#include "io/io_posix.h"

#include <errno.h>
#include <signal.h>

#define SECOND_NS    UINT64_C(1000000000)
#define SLEEP_MAX_NS SECOND_NS
#define NAME_MAX_LEN 16 /* the kernel's limit for a thread's name, with its end */

struct io_lane {
    struct posix_io *posix;
    pthread_t thread;
    char name[NAME_MAX_LEN];
    pthread_mutex_t mutex;
    pthread_cond_t cond; /* on CLOCK_MONOTONIC */
    /* Guarded by mutex. */
    struct io_queue queue;
    bool sleeping;
    bool closing;
};

static _Thread_local struct io_lane *current_lane;

/* Initialises a mutex and a condition whose time-outs are on CLOCK_MONOTONIC. Returns an errno. */
static int init_pair(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);

    if (rc != 0) {
        return rc;
    }
    rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0) {
        rc = pthread_cond_init(cond, &attr);
    }
    (void)pthread_condattr_destroy(&attr);
    if (rc != 0) {
        return rc;
    }
    rc = pthread_mutex_init(mutex, NULL);
    if (rc != 0) {
        (void)pthread_cond_destroy(cond);
    }
    return rc;
}

static void release_pair(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    (void)pthread_cond_destroy(cond);
    (void)pthread_mutex_destroy(mutex);
}

/* Sleeps until signalled, or until about the deadline (boot-time clock) at the latest; see L3. */
static void sleep_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX) {
        (void)pthread_cond_wait(cond, mutex);
        return;
    }
    uint64_t now = io_posix_clock_ns(CLOCK_BOOTTIME);
    if (now >= deadline_ns) {
        return;
    }
    uint64_t piece = deadline_ns - now < SLEEP_MAX_NS ? deadline_ns - now : SLEEP_MAX_NS;
    uint64_t until = io_posix_clock_ns(CLOCK_MONOTONIC) + piece;
    struct timespec ts = {.tv_sec = (time_t)(until / SECOND_NS),
                          .tv_nsec = (long)(until % SECOND_NS)};
    (void)pthread_cond_timedwait(cond, mutex, &ts);
}

/* ---- lanes ---- */

static void *lane_main(void *arg)
{
    struct io_lane *lane = arg;

    current_lane = lane;
    (void)pthread_setname_np(pthread_self(), lane->name); /* a courtesy to whoever debugs */
    (void)pthread_mutex_lock(&lane->mutex);
    for (;;) {
        if (lane->queue.timed != NULL) {
            if (lane->closing) {
                io_queue_drop_timed(&lane->queue);
            } else {
                io_queue_expire(&lane->queue, io_posix_clock_ns(CLOCK_BOOTTIME));
            }
        }
        struct io_task *task = io_queue_pop(&lane->queue);
        if (task != NULL) {
            (void)pthread_mutex_unlock(&lane->mutex);
            task->run(task);
            (void)pthread_mutex_lock(&lane->mutex);
        } else if (lane->closing) {
            break;
        } else {
            lane->sleeping = true;
            sleep_until(&lane->cond, &lane->mutex, io_queue_due(&lane->queue));
            lane->sleeping = false;
        }
    }
    (void)pthread_mutex_unlock(&lane->mutex);
    return NULL;
}

/* Starts the thread with the signals of L4 blocked from its first instruction on. */
static int start_thread(struct io_lane *lane)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked;
    sigset_t before;

    (void)sigfillset(&blocked);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        (void)sigdelset(&blocked, faults[i]);
    }
    int rc = pthread_sigmask(SIG_SETMASK, &blocked, &before);
    if (rc != 0) {
        return rc;
    }
    rc = pthread_create(&lane->thread, NULL, lane_main, lane);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int io_posix_lane_open(struct io *io, const char *name, struct io_lane **ret,
                       struct levee_error *err)
{
    struct io_lane *lane = mem_zalloc(sizeof *lane);

    if (lane == NULL) {
        return err_nomem(err, sizeof *lane);
    }
    lane->posix = posix_io(io);
    (void)snprintf(lane->name, sizeof lane->name, "%s", name);
    io_queue_init(&lane->queue);
    int rc = init_pair(&lane->mutex, &lane->cond);
    if (rc == 0) {
        rc = start_thread(lane);
        if (rc != 0) {
            release_pair(&lane->mutex, &lane->cond);
        }
    }
    if (rc != 0) {
        mem_free(lane);
        return err_sys(err, LEVEE_ETHREAD, rc, "cannot start the thread %s", name);
    }
    atomic_fetch_add(&lane->posix->lanes, 1);
    *ret = lane;
    return LEVEE_OK;
}

void io_posix_lane_post(struct io_lane *lane, struct io_task *task)
{
    (void)pthread_mutex_lock(&lane->mutex);
    io_queue_push(&lane->queue, task);
    bool wake = lane->sleeping;
    /* Signalled under the mutex: the lane may be closed and freed as soon as the task has run. */
    if (wake) {
        (void)pthread_cond_signal(&lane->cond);
    }
    (void)pthread_mutex_unlock(&lane->mutex);
}

void io_posix_lane_post_at(struct io_lane *lane, struct io_task *task, uint64_t due_ns)
{
    (void)pthread_mutex_lock(&lane->mutex);
    io_queue_push_at(&lane->queue, task, due_ns);
    bool first = lane->queue.timed == &task->link; /* the sleep must end earlier */
    if (first && lane->sleeping) {
        (void)pthread_cond_signal(&lane->cond);
    }
    (void)pthread_mutex_unlock(&lane->mutex);
}

bool io_posix_lane_cancel(struct io_lane *lane, struct io_task *task)
{
    ASSERT(current_lane == lane);
    (void)pthread_mutex_lock(&lane->mutex);
    bool cancelled = io_queue_cancel(&lane->queue, task);
    (void)pthread_mutex_unlock(&lane->mutex);
    return cancelled;
}

void io_posix_lane_close(struct io_lane *lane)
{
    ASSERT(current_lane != lane);
    (void)pthread_mutex_lock(&lane->mutex);
    ASSERT(!lane->closing);
    lane->closing = true;
    (void)pthread_cond_signal(&lane->cond);
    (void)pthread_mutex_unlock(&lane->mutex);
    int rc = pthread_join(lane->thread, NULL);
    ASSERT(rc == 0);
    release_pair(&lane->mutex, &lane->cond);
    atomic_fetch_sub(&lane->posix->lanes, 1);
    mem_free(lane);
}

bool io_posix_lane_current(struct io_lane *lane)
{
    return current_lane == lane;
}

/* ---- wait and notify ---- */

int io_posix_lanes_init(struct posix_io *posix, struct levee_error *err)
{
    int rc = init_pair(&posix->wait_mutex, &posix->wait_cond);

    return rc == 0 ? LEVEE_OK : err_sys(err, LEVEE_ETHREAD, rc, "cannot make a condition");
}

void io_posix_lanes_release(struct posix_io *posix)
{
    ASSERT(atomic_load(&posix->lanes) == 0); /* their threads would run on freed memory */
    ASSERT(atomic_load(&posix->waiters) == 0);
    release_pair(&posix->wait_mutex, &posix->wait_cond);
}

bool io_posix_wait(struct io *io, bool (*done)(void *arg), void *arg, uint64_t deadline_ns)
{
    struct posix_io *posix = posix_io(io);
    bool result;

    ASSERT(current_lane == NULL);
    atomic_fetch_add(&posix->waiters, 1);
    for (;;) {
        /* Whoever changes what `done` looks at after this line also changes the turn. */
        uint64_t turn = atomic_load(&posix->turn);
        result = done(arg);
        if (result || io_posix_clock_ns(CLOCK_BOOTTIME) >= deadline_ns) {
            break;
        }
        (void)pthread_mutex_lock(&posix->wait_mutex);
        while (atomic_load(&posix->turn) == turn &&
               io_posix_clock_ns(CLOCK_BOOTTIME) < deadline_ns) {
            sleep_until(&posix->wait_cond, &posix->wait_mutex, deadline_ns);
        }
        (void)pthread_mutex_unlock(&posix->wait_mutex);
    }
    atomic_fetch_sub(&posix->waiters, 1);
    return result;
}

/* Both sides first write and then read, in one total order: either the waiter sees the new turn
 * before it sleeps, or this sees the waiter and wakes it. */
void io_posix_notify(struct io *io)
{
    struct posix_io *posix = posix_io(io);

    atomic_fetch_add(&posix->turn, 1);
    if (atomic_load(&posix->waiters) == 0) {
        return;
    }
    (void)pthread_mutex_lock(&posix->wait_mutex);
    (void)pthread_cond_broadcast(&posix->wait_cond);
    (void)pthread_mutex_unlock(&posix->wait_mutex);
}
