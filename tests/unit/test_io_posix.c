/*
 * What only the real file system can show: locks between processes and their end with a killed
 * holder, a host that takes our descriptors, descriptors that run out, a full device, descriptors
 * that survive no exec. Process death where a test says so; power loss is the simulator's part.
 */
#include "tests/support/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "io/io.h"

static struct io *io;
static const struct io_ops *ops;
static struct levee_error err;
static char root[IO_PATH_MAX];

static const char *at(const char *name)
{
    static char path[IO_PATH_MAX];

    ck_assert_int_eq(io_path(path, root, name, &err), LEVEE_OK);
    return path;
}

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(root, sizeof root, "%s/levee-posix-XXXXXX", tmp != NULL ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_int_eq(io_posix_new(&io, &err), LEVEE_OK);
    ops = io->ops;
}

static void teardown(void)
{
    struct io_list list = {0};

    ck_assert_int_eq(ops->list(io, root, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        ck_assert_int_eq(ops->unlink(io, at(list.items[i].name), &err), LEVEE_OK);
    }
    io_list_free(&list);
    ck_assert_int_eq(rmdir(root), 0);
    io_free(io);
}

static struct io_file *must_open(const char *name, int flags)
{
    struct io_file *f = NULL;

    ck_assert_int_eq(ops->open(io, at(name), flags, &f, &err), LEVEE_OK);
    return f;
}

static int try_write(struct io_file *f, const char *text, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};

    return ops->pwritev(f, &iov, 1, offset, &err);
}

/* Fault 115: another process holds it; its pid is named; SIGKILL frees it at once. */
START_TEST(test_lock_of_another_process_names_it_and_ends_with_it)
{
    struct io_lock *lock = NULL;
    int ready[2];
    char byte;
    char name[32];
    int status;

    ck_assert_int_eq(pipe(ready), 0);
    pid_t holder = fork();
    if (holder == 0) {
        struct io *own = NULL;
        struct io_lock *held = NULL;
        if (io_posix_new(&own, NULL) != LEVEE_OK ||
            own->ops->lock(own, at("lock"), &held, NULL) != LEVEE_OK) {
            _exit(1);
        }
        (void)!write(ready[1], "x", 1);
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(ops->lock(io, at("lock"), &lock, &err), LEVEE_EDIR_BUSY);
    snprintf(name, sizeof name, "process %d", (int)holder);
    ck_assert_ptr_nonnull(strstr(err.what, name));
    ck_assert_str_eq(err.where, at("lock"));
    ck_assert_int_eq(kill(holder, SIGKILL), 0);
    ck_assert_int_eq(waitpid(holder, &status, 0), holder);
    ck_assert_int_eq(ops->lock(io, at("lock"), &lock, &err), LEVEE_OK);
    close(ready[0]);

    /* The text is ours now, whole. */
    struct buf text = {0};
    ck_assert_int_eq(io_read_file(io, at("lock"), 100, &text, &err), LEVEE_OK);
    buf_u8(&text, 0);
    ck_assert_int_eq(strtol((char *)text.data, NULL, 10), getpid());
    buf_release(&text);
    ops->unlock(lock);
}
END_TEST

/* A child that inherited the lock and lets go of it does not free it for others. */
START_TEST(test_unlock_in_a_forked_child_leaves_the_parents_lock)
{
    struct io_lock *lock = NULL;
    int status;

    ck_assert_int_eq(ops->lock(io, at("lock"), &lock, &err), LEVEE_OK);
    pid_t child = fork();
    if (child == 0) {
        struct io_lock *own = NULL;
        ops->unlock(lock);
        _exit(ops->lock(io, at("lock"), &own, NULL) == LEVEE_EDIR_BUSY ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ops->unlock(lock);
}
END_TEST

/* An owner whose lock file was removed has lost nothing, and the next one locks the new file. */
START_TEST(test_lock_is_of_the_file_that_has_the_name)
{
    struct io_lock *old = NULL;
    struct io_lock *new = NULL;

    ck_assert_int_eq(ops->lock(io, at("lock"), &old, &err), LEVEE_OK);
    ck_assert_int_eq(ops->unlink(io, at("lock"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->lock(io, at("lock"), &new, &err), LEVEE_OK);
    ops->unlock(old);
    struct io_lock *third = NULL;
    ck_assert_int_eq(ops->lock(io, at("lock"), &third, &err), LEVEE_EDIR_BUSY);
    ops->unlock(new);
}
END_TEST

/* The descriptor by which this process has the file open. */
static int fd_of(const char *path)
{
    struct stat want;
    struct stat have;

    ck_assert_int_eq(stat(path, &want), 0);
    for (int fd = 0; fd < 1024; fd++) {
        if (fstat(fd, &have) == 0 && have.st_dev == want.st_dev && have.st_ino == want.st_ino) {
            return fd;
        }
    }
    return -1;
}

/* Fault 114: a daemonizing host closes all descriptors and opens its own with the same numbers. */
START_TEST(test_a_stolen_descriptor_is_noticed_and_not_closed)
{
    struct io_stat st;

    struct io_file *f = must_open("ours", IO_WRITE | IO_CREATE);
    int fd = fd_of(at("ours"));
    ck_assert_int_ge(fd, 0);
    int theirs = open(at("theirs"), O_RDWR | O_CREAT, 0600);
    ck_assert_int_ge(theirs, 0);
    ck_assert_int_eq(ops->fstat(f, &st, &err), LEVEE_OK);
    ck_assert_int_eq(dup2(theirs, fd), fd);
    ck_assert_int_eq(ops->fstat(f, &st, &err), LEVEE_EIO);
    ck_assert_ptr_nonnull(strstr(err.what, "ours"));
    ops->close(f);
    ck_assert_int_ne(fcntl(fd, F_GETFD), -1); /* the host's file is still open */
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(close(theirs), 0);

    f = must_open("ours", IO_READ);
    ck_assert_int_eq(close(fd_of(at("ours"))), 0);
    ck_assert_int_eq(ops->fstat(f, &st, &err), LEVEE_EIO);
    ck_assert_int_eq(err.sys_errno, EBADF);
    ops->close(f);
}
END_TEST

START_TEST(test_every_descriptor_is_close_on_exec)
{
    struct io_lock *lock = NULL;

    struct io_file *f = must_open("file", IO_WRITE | IO_CREATE);
    ck_assert_int_eq(ops->lock(io, at("lock"), &lock, &err), LEVEE_OK);
    ck_assert_int_eq(fcntl(fd_of(at("file")), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ck_assert_int_eq(fcntl(fd_of(at("lock")), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ops->unlock(lock);
    ops->close(f);
}
END_TEST

static int open_descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 1024; fd++) {
        count += fcntl(fd, F_GETFD) != -1;
    }
    return count;
}

/* Nothing keeps a descriptor longer than the call: errors, syncs of directories, lists, locks
 * refused. */
START_TEST(test_no_descriptor_leaks)
{
    struct io_list list = {0};
    struct io_file *f = NULL;
    struct io_lock *lock = NULL;
    struct io_lock *second = NULL;
    int before = open_descriptors();

    ck_assert_int_eq(ops->sync_dir(io, root, &err), LEVEE_OK);
    ck_assert_int_eq(ops->list(io, root, &list, &err), LEVEE_OK);
    io_list_free(&list);
    ck_assert_int_eq(ops->open(io, at("none"), IO_READ, &f, &err), LEVEE_ENOTFOUND);
    ck_assert_int_eq(ops->lock(io, at("lock"), &lock, &err), LEVEE_OK);
    ck_assert_int_eq(ops->lock(io, at("lock"), &second, &err), LEVEE_EDIR_BUSY);
    ops->unlock(lock);
    ck_assert_int_eq(io_publish(io, root, "f", slice_str("x"), &err), LEVEE_OK);
    ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

/* Fault 71. */
START_TEST(test_descriptors_that_run_out_are_an_error)
{
    struct io_file *f = NULL;
    struct io_lock *lock = NULL;
    struct io_list list = {0};
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit before = limit;
    limit.rlim_cur = 3; /* what every process has open already */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int rcs[] = {ops->open(io, at("f"), IO_WRITE | IO_CREATE, &f, &err),
                 ops->lock(io, at("lock"), &lock, &err), ops->sync_dir(io, root, &err),
                 ops->list(io, root, &list, &err)};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (size_t i = 0; i < ARRAY_LEN(rcs); i++) {
        ck_assert_int_eq(rcs[i], LEVEE_ELIMIT);
    }
    ck_assert_int_eq(err.sys_errno, EMFILE);
}
END_TEST

/* Fault 67, on the device that is always full. */
START_TEST(test_a_full_device_says_nospace)
{
    struct io_file *f = NULL;

    ck_assert_int_eq(ops->open(io, "/dev/full", IO_WRITE, &f, &err), LEVEE_OK);
    ck_assert_int_eq(try_write(f, "x", 0), LEVEE_ENOSPACE);
    ck_assert_int_eq(err.sys_errno, ENOSPC);
    ck_assert_str_eq(err.where, "/dev/full, offset 0");
    ops->close(f);
}
END_TEST

static void on_alarm(int sig)
{
    (void)sig;
}

/* Fault 24 and 112: a storm of signals without SA_RESTART disturbs no call. */
START_TEST(test_a_signal_storm_disturbs_nothing)
{
    struct sigaction action = {.sa_handler = on_alarm}; /* no SA_RESTART */
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec often = {{0, 100000}, {0, 100000}};
    struct itimerspec never = {{0, 0}, {0, 0}};
    char name[32];

    ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
    ck_assert_int_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    ck_assert_int_eq(timer_settime(timer, 0, &often, NULL), 0);
    for (int i = 0; i < 50; i++) {
        struct buf got = {0};
        snprintf(name, sizeof name, "f%d", i % 5);
        ck_assert_int_eq(io_publish(io, root, name, slice_str(name), &err), LEVEE_OK);
        ck_assert_int_eq(io_read_file(io, at(name), 100, &got, &err), LEVEE_OK);
        ck_assert_mem_eq(got.data, name, got.len);
        buf_release(&got);
    }
    ck_assert_int_eq(timer_settime(timer, 0, &never, NULL), 0);
    ck_assert_int_eq(timer_delete(timer), 0);
}
END_TEST

START_TEST(test_clocks_are_the_systems)
{
    struct timespec boot;

    ck_assert_int_eq(clock_gettime(CLOCK_BOOTTIME, &boot), 0);
    uint64_t low = (uint64_t)boot.tv_sec * 1000000000u + (uint64_t)boot.tv_nsec;
    uint64_t now = ops->now_ns(io);
    ck_assert_int_eq(clock_gettime(CLOCK_BOOTTIME, &boot), 0);
    uint64_t high = (uint64_t)boot.tv_sec * 1000000000u + (uint64_t)boot.tv_nsec;
    ck_assert_uint_ge(now, low);
    ck_assert_uint_le(now, high);
    int64_t wall_low = (int64_t)time(NULL) * 1000;
    int64_t wall = ops->wall_ms(io);
    ck_assert(wall >= wall_low);
    ck_assert(wall <= (int64_t)time(NULL) * 1000 + 999);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_posix");
    TCase *posix = tcase_create("posix");

    tcase_add_checked_fixture(posix, setup, teardown);
    tcase_set_timeout(posix, 60);
    tcase_add_test(posix, test_lock_of_another_process_names_it_and_ends_with_it);
    tcase_add_test(posix, test_unlock_in_a_forked_child_leaves_the_parents_lock);
    tcase_add_test(posix, test_lock_is_of_the_file_that_has_the_name);
    tcase_add_test(posix, test_a_stolen_descriptor_is_noticed_and_not_closed);
    tcase_add_test(posix, test_every_descriptor_is_close_on_exec);
    tcase_add_test(posix, test_no_descriptor_leaks);
    tcase_add_test(posix, test_descriptors_that_run_out_are_an_error);
    tcase_add_test(posix, test_a_full_device_says_nospace);
    tcase_add_test(posix, test_a_signal_storm_disturbs_nothing);
    tcase_add_test(posix, test_clocks_are_the_systems);
    suite_add_tcase(suite, posix);
    return suite_main(suite);
}
