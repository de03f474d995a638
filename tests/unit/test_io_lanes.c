/*
 * Lanes as threads: nothing is lost or run twice, each poster's tasks stay in order, waiting never
 * misses a notification, signals stay with the host. Meant to run under TSan: the plain counters
 * here are touched only where a lane's order, or wait and notify, must make that safe.
 */
#include "tests/support/suite.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/io.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define FAR_NS UINT64_C(3600000000000)

static struct io *io;
static const struct io_ops *ops;
static struct levee_error err;

static void setup(void)
{
    ck_assert_int_eq(io_posix_new(&io, &err), LEVEE_OK);
    ops = io->ops;
}

static void teardown(void)
{
    io_free(io);
}

static struct io_lane *must_open(const char *name)
{
    struct io_lane *lane = NULL;

    ck_assert_int_eq(ops->lane_open(io, name, &lane, &err), LEVEE_OK);
    return lane;
}

/* ---- many posters, one lane ---- */

enum { POSTERS = 4, PER_POSTER = 3000 };

struct numbered {
    struct io_task task;
    int poster, number;
};

static struct numbered numbered[POSTERS][PER_POSTER];
static int next_number[POSTERS]; /* touched on the lane only */
static int out_of_order;
static struct io_lane *target;

static void numbered_run(struct io_task *task)
{
    struct numbered *n = CONTAINER_OF(task, struct numbered, task);

    out_of_order += next_number[n->poster] != n->number;
    next_number[n->poster]++;
}

static void *poster_main(void *arg)
{
    int poster = *(int *)arg;

    for (int i = 0; i < PER_POSTER; i++) {
        numbered[poster][i] =
            (struct numbered){.task.run = numbered_run, .poster = poster, .number = i};
        ops->lane_post(target, &numbered[poster][i].task);
    }
    return NULL;
}

START_TEST(test_many_posters_lose_nothing_and_keep_their_order)
{
    pthread_t threads[POSTERS];
    int ids[POSTERS];

    target = must_open("target");
    for (int i = 0; i < POSTERS; i++) {
        ids[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, poster_main, &ids[i]), 0);
    }
    for (int i = 0; i < POSTERS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ops->lane_close(target); /* drains; its end orders our reads after the lane's writes */
    ck_assert_int_eq(out_of_order, 0);
    for (int i = 0; i < POSTERS; i++) {
        ck_assert_int_eq(next_number[i], PER_POSTER);
    }
}
END_TEST

/* ---- two lanes that talk ---- */

struct ball {
    struct io_task task;
    struct io_lane *lanes[2];
    int hits; /* handed over with the task: no lock needed */
};

enum { HITS = 2000 };
static _Atomic bool game_over;

static void hit(struct io_task *task)
{
    struct ball *ball = CONTAINER_OF(task, struct ball, task);
    int side = ball->hits++ % 2;

    if (!ops->lane_current(ball->lanes[side]) || ops->lane_current(ball->lanes[1 - side])) {
        abort(); /* a failed check's longjmp must not leave the lane's thread */
    }
    if (ball->hits == HITS) {
        game_over = true;
        ops->notify(io);
    } else {
        ops->lane_post(ball->lanes[1 - side], &ball->task);
    }
}

static bool is_set(void *arg)
{
    return *(_Atomic bool *)arg;
}

START_TEST(test_a_task_travels_between_lanes_and_wait_sees_its_end)
{
    struct ball ball = {.task.run = hit};

    ball.lanes[0] = must_open("left");
    ball.lanes[1] = must_open("right");
    ops->lane_post(ball.lanes[0], &ball.task);
    ck_assert(ops->wait(io, is_set, &game_over, UINT64_MAX));
    ops->lane_close(ball.lanes[0]);
    ops->lane_close(ball.lanes[1]);
    ck_assert_int_eq(ball.hits, HITS);
}
END_TEST

/* ---- wait and notify: no lost wake-up, `done` may take the notifier's lock ---- */

static pthread_mutex_t state_mutex = PTHREAD_MUTEX_INITIALIZER;
static int produced; /* guarded by state_mutex */
static int consumed;

static bool something_produced(void *arg)
{
    (void)pthread_mutex_lock(&state_mutex);
    bool more = produced > *(int *)arg;
    (void)pthread_mutex_unlock(&state_mutex);
    return more;
}

static bool all_consumed(void *arg)
{
    (void)pthread_mutex_lock(&state_mutex);
    bool equal = consumed == *(int *)arg;
    (void)pthread_mutex_unlock(&state_mutex);
    return equal;
}

enum { ROUNDS = 3000 };

static void *consumer_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        if (!ops->wait(io, something_produced, &i, UINT64_MAX)) {
            abort();
        }
        (void)pthread_mutex_lock(&state_mutex);
        consumed++;
        ops->notify(io); /* under the lock that `done` takes */
        (void)pthread_mutex_unlock(&state_mutex);
    }
    return NULL;
}

START_TEST(test_two_threads_wait_for_each_other_in_turn)
{
    pthread_t consumer;

    ck_assert_int_eq(pthread_create(&consumer, NULL, consumer_main, NULL), 0);
    for (int i = 1; i <= ROUNDS; i++) {
        (void)pthread_mutex_lock(&state_mutex);
        produced = i;
        ops->notify(io);
        (void)pthread_mutex_unlock(&state_mutex);
        ck_assert(ops->wait(io, all_consumed, &i, UINT64_MAX)); /* a lost wake-up hangs here */
    }
    ck_assert_int_eq(pthread_join(consumer, NULL), 0);
}
END_TEST

/* ---- timers ---- */

struct timer {
    struct io_task task;
    uint64_t ran_at;
};

static _Atomic int timers_ran;

static void timer_run(struct io_task *task)
{
    CONTAINER_OF(task, struct timer, task)->ran_at = ops->now_ns(io);
    timers_ran++;
    ops->notify(io);
}

static bool timers_done(void *arg)
{
    return timers_ran >= *(int *)arg;
}

/* A nearer timer must cut short the sleep that a farther one began; nothing runs early. */
START_TEST(test_a_nearer_timer_wakes_the_lane)
{
    struct timer far = {.task.run = timer_run};
    struct timer near[20];
    int all = ARRAY_LEN(near);
    struct io_lane *lane = must_open("timers");

    ops->lane_post_at(lane, &far.task, ops->now_ns(io) + FAR_NS);
    for (int i = 0; i < all; i++) {
        near[i] = (struct timer){.task.run = timer_run};
        int before = timers_ran;
        int next = before + 1;
        ops->lane_post_at(lane, &near[i].task, ops->now_ns(io) + 200000);
        ck_assert(ops->wait(io, timers_done, &next, ops->now_ns(io) + FAR_NS));
    }
    ops->lane_close(lane);
    for (int i = 0; i < all; i++) {
        ck_assert_uint_ge(near[i].ran_at, near[i].task.due_ns);
    }
    ck_assert_int_eq(timers_ran, all);
    ck_assert(!far.task.queued);
}
END_TEST

/* ---- life and death of lanes ---- */

static void freeing_run(struct io_task *task)
{
    mem_free(CONTAINER_OF(task, struct timer, task));
}

/* Tasks that free themselves, lanes closed at once: ASan would see a touch after the run. */
START_TEST(test_lanes_come_and_go)
{
    for (int i = 0; i < 100; i++) {
        struct io_lane *lane = must_open("brief");
        for (int k = 0; k < i % 5; k++) {
            struct timer *t = mem_zalloc(sizeof *t);
            ck_assert_ptr_nonnull(t);
            t->task.run = freeing_run;
            ops->lane_post(lane, &t->task);
        }
        ops->lane_close(lane);
    }
}
END_TEST

/* Fault 75. Address space is what a root process can be denied; sanitizers need it all for
 * themselves. */
START_TEST(test_a_thread_that_cannot_start_is_an_error)
{
    struct rlimit limit;
    struct io_lane *lane = NULL;

    if (SANITIZED) {
        return;
    }
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &limit), 0);
    struct rlimit before = limit;
    limit.rlim_cur = 1 << 20; /* less than is in use: no new stack */
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
    int rc = ops->lane_open(io, "none", &lane, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &before), 0);
    ck_assert_int_eq(rc, LEVEE_ETHREAD);
    ck_assert_int_eq(err.sys_errno, EAGAIN);
    ck_assert_ptr_null(lane);
    ops->lane_close(must_open("works again"));
}
END_TEST

/* ---- signals (faults 74, 111, 112) ---- */

static sigset_t lane_mask;
static struct io_file *limited;
static int limited_rc;
static struct levee_error limited_err;
static int broken_pipe_errno;

static void look_at_mask(struct io_task *task)
{
    (void)task;
    if (pthread_sigmask(SIG_SETMASK, NULL, &lane_mask) != 0) {
        abort();
    }
}

START_TEST(test_signals_stay_with_the_host)
{
    static const int hosts[] = {SIGTERM, SIGINT,  SIGHUP,  SIGPIPE, SIGCHLD,
                                SIGUSR1, SIGALRM, SIGXFSZ, SIGPROF};
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct io_task look = {.run = look_at_mask};
    sigset_t ours;
    struct io_lane *lane = must_open("mask");

    ops->lane_post(lane, &look);
    ops->lane_close(lane);
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
        ck_assert_int_eq(sigismember(&lane_mask, hosts[i]), 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        ck_assert_int_eq(sigismember(&lane_mask, faults[i]), 0);
    }
    ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &ours), 0);
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
        ck_assert_int_eq(sigismember(&ours, hosts[i]), 0); /* the opener's mask is as it was */
    }
}
END_TEST

static void write_too_far(struct io_task *task)
{
    uint8_t data[3000] = {1};
    struct iovec iov = {.iov_base = data, .iov_len = sizeof data};
    int pipes[2];

    (void)task;
    limited_rc = ops->pwritev(limited, &iov, 1, 2000, &limited_err);
    if (pipe(pipes) != 0) {
        abort();
    }
    (void)close(pipes[0]);
    if (write(pipes[1], data, 1) < 0) {
        broken_pipe_errno = errno;
    }
    (void)close(pipes[1]);
}

/* Fault 74: with SIGXFSZ and SIGPIPE at their deadly defaults, a lane gets errors and lives. The
 * write also is cut short by the kernel on its way to the limit (fault 23). */
START_TEST(test_a_file_size_limit_is_an_error_on_a_lane)
{
    char path[] = "/tmp/levee-lane-XXXXXX";
    struct rlimit limit;
    struct io_stat st;
    struct io_task task = {.run = write_too_far};
    int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(ops->open(io, path, IO_WRITE, &limited, &err), LEVEE_OK);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit before = limit;
    limit.rlim_cur = 4096;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct io_lane *lane = must_open("limited");
    ops->lane_post(lane, &task);
    ops->lane_close(lane);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    ck_assert_int_eq(limited_rc, LEVEE_ENOSPACE);
    ck_assert_int_eq(limited_err.sys_errno, EFBIG);
    ck_assert_int_eq(broken_pipe_errno, EPIPE);
    ck_assert_int_eq(ops->fstat(limited, &st, &err), LEVEE_OK);
    ck_assert_uint_eq(st.size, 4096);
    ops->close(limited);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

/* ---- misuse is our own bug and stops the program ---- */

static void close_itself(struct io_task *task)
{
    (void)task;
    ops->lane_close(target);
}

START_TEST(test_a_lane_cannot_close_itself)
{
    struct io_task task = {.run = close_itself};

    target = must_open("suicidal");
    ops->lane_post(target, &task);
    ops->lane_close(target);
}
END_TEST

START_TEST(test_a_task_cannot_be_posted_twice)
{
    struct io_task task = {.run = timer_run};
    struct io_lane *lane = must_open("twice");

    ops->lane_post_at(lane, &task, ops->now_ns(io) + FAR_NS);
    ops->lane_post(lane, &task);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_lanes");
    TCase *lanes = tcase_create("lanes");

    tcase_add_checked_fixture(lanes, setup, teardown);
    tcase_set_timeout(lanes, 60);
    tcase_add_test(lanes, test_many_posters_lose_nothing_and_keep_their_order);
    tcase_add_test(lanes, test_a_task_travels_between_lanes_and_wait_sees_its_end);
    tcase_add_test(lanes, test_two_threads_wait_for_each_other_in_turn);
    tcase_add_test(lanes, test_a_nearer_timer_wakes_the_lane);
    tcase_add_test(lanes, test_lanes_come_and_go);
    tcase_add_test(lanes, test_a_thread_that_cannot_start_is_an_error);
    tcase_add_test(lanes, test_signals_stay_with_the_host);
    tcase_add_test(lanes, test_a_file_size_limit_is_an_error_on_a_lane);
    tcase_add_test_raise_signal(lanes, test_a_lane_cannot_close_itself, SIGABRT);
    tcase_add_test_raise_signal(lanes, test_a_task_cannot_be_posted_twice, SIGABRT);
    suite_add_tcase(suite, lanes);
    return suite_main(suite);
}
