/*
 * Watched directories on the real machine: what is told, how often the owner is woken, what happens
 * when the kernel's queue runs over; and what io says of a file's birth, its last change and its
 * writers.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/io.h"
#include "tests/support/suite.h"

static struct {
    struct io *io;
    struct io_lane *lane;
    struct io_task task;
    struct io_watch *watch;
    char dir[256];
    int id;
    _Atomic int woken;
} rig;

static void woken(struct io_task *t)
{
    (void)t;
    atomic_fetch_add(&rig.woken, 1);
    rig.io->ops->notify(rig.io);
}

static bool was_woken(void *arg)
{
    return atomic_load(&rig.woken) >= *(int *)arg;
}

static void wait_woken(int times)
{
    ck_assert(
        rig.io->ops->wait(rig.io, was_woken, &times, rig.io->ops->now_ns(rig.io) + 20000000000u));
}

static void begin(void)
{
    struct levee_error err = {0};
    const char *tmp = getenv("TMPDIR");

    memset(&rig, 0, sizeof rig);
    (void)snprintf(rig.dir, sizeof rig.dir, "%s/levee-watch-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(rig.dir));
    ck_assert_int_eq(io_posix_new(&rig.io, &err), LEVEE_OK);
    ck_assert_int_eq(rig.io->ops->lane_open(rig.io, "owner", &rig.lane, &err), LEVEE_OK);
    rig.task.run = woken;
    ck_assert_int_eq(io_watch_open(rig.io, rig.lane, &rig.task, &rig.watch, &err), LEVEE_OK);
    ck_assert_int_eq(io_watch_add(rig.watch, rig.dir, &rig.id, &err), LEVEE_OK);
}

static void end(void)
{
    char command[300];

    io_watch_close(rig.watch);
    rig.io->ops->lane_close(rig.lane);
    io_free(rig.io);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", rig.dir);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): names of our own making */
}

static const char *path_of(const char *name)
{
    static char path[2][400];
    static int turn;
    char *p = path[turn++ % 2];

    (void)snprintf(p, 400, "%s/%s", rig.dir, name);
    return p;
}

static void write_file(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY, 0600);

    MUST(fd >= 0 && write(fd, "x\n", 2) == 2 && close(fd) == 0);
}

/* Reads until this event has come; others may lie before it. */
static void must_tell(enum io_watch_kind kind, const char *name)
{
    struct io_watch_event e;

    for (int times = 1;; times++) {
        while (io_watch_next(rig.watch, &e)) {
            if (e.kind == kind && strcmp(e.name, name) == 0) {
                ck_assert(e.dir == rig.id || kind == IO_WATCH_LOST);
                return;
            }
        }
        wait_woken(times);
    }
}

START_TEST(closed_and_moved_files_and_new_directories_are_told)
{
    begin();
    write_file(path_of("a"));
    must_tell(IO_WATCH_FILE, "a");
    ck_assert_int_eq(rename(path_of("a"), path_of("b")), 0);
    must_tell(IO_WATCH_FILE, "b");
    ck_assert_int_eq(mkdir(path_of("d"), 0700), 0);
    must_tell(IO_WATCH_DIR, "d");
    ck_assert_int_eq(unlink(path_of("b")) | rmdir(path_of("d")) | rmdir(rig.dir), 0);
    must_tell(IO_WATCH_GONE, "");
    end();
}
END_TEST

START_TEST(the_owner_is_woken_once_until_it_has_read_everything)
{
    struct io_watch_event e;
    int files = 0;

    begin();
    write_file(path_of("first"));
    wait_woken(1);
    for (int i = 0; i < 100; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "f%d", i);
        write_file(path_of(name));
    }
    ck_assert_int_eq(atomic_load(&rig.woken), 1);
    while (io_watch_next(rig.watch, &e)) {
        files += e.kind == IO_WATCH_FILE && e.name[0] == 'f';
    }
    ck_assert_int_ge(files, 101);
    write_file(path_of("last"));
    wait_woken(2);
    must_tell(IO_WATCH_FILE, "last");
    end();
}
END_TEST

START_TEST(an_overflow_of_the_kernels_queue_is_told)
{
    FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    int max = 0;

    ck_assert(f && fscanf(f, "%d", &max) == 1 && fclose(f) == 0);
    begin();
    write_file(path_of("a"));
    for (int i = 0; i <= max / 2 + 1; i++) { /* two events each, none like the one before it */
        ck_assert_int_eq(rename(path_of(i % 2 ? "b" : "a"), path_of(i % 2 ? "a" : "b")), 0);
        int fd = open(path_of(i % 2 ? "a" : "b"), O_WRONLY);
        MUST(fd >= 0 && close(fd) == 0);
    }
    must_tell(IO_WATCH_LOST, "");
    end();
}
END_TEST

START_TEST(what_is_missing_cannot_be_watched)
{
    struct levee_error err = {0};
    int id;

    begin();
    ck_assert_int_eq(io_watch_add(rig.watch, path_of("missing"), &id, &err), LEVEE_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.where, "missing"));
    end();
}
END_TEST

START_TEST(a_file_knows_its_birth_its_change_and_its_writers)
{
    struct io_stat first = {0}, second = {0}, made = {0};
    struct io_file *f = NULL;
    struct timespec old[2] = {{.tv_sec = 1000, .tv_nsec = 5}, {.tv_sec = 1000, .tv_nsec = 5}};

    begin();
    write_file(path_of("a"));
    ck_assert_int_eq(rig.io->ops->stat(rig.io, path_of("a"), &first, NULL), LEVEE_OK);
    ck_assert_int_eq(rename(path_of("a"), path_of("b")), 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, path_of("b"), old, 0), 0);
    ck_assert_int_eq(rig.io->ops->open(rig.io, path_of("b"), IO_READ, &f, NULL), LEVEE_OK);
    ck_assert_int_eq(rig.io->ops->fstat(f, &second, NULL), LEVEE_OK);
    ck_assert_uint_eq(first.inode, second.inode);
    ck_assert_uint_eq(first.birth, second.birth);
    ck_assert_uint_eq(first.dev, second.dev);
    ck_assert_int_eq(second.mtime_ns, 1000000000005);
    ck_assert_int_gt(first.mtime_ns, second.mtime_ns);
    ck_assert(!rig.io->ops->has_writer(f));
    int fd = open(path_of("b"), O_WRONLY);
    ck_assert(rig.io->ops->has_writer(f));
    (void)close(fd);
    ck_assert(!rig.io->ops->has_writer(f));
    rig.io->ops->close(f);
    write_file(path_of("c"));
    ck_assert_int_eq(rig.io->ops->stat(rig.io, path_of("c"), &made, NULL), LEVEE_OK);
    ck_assert_uint_gt(made.birth, first.birth); /* this file system says */
    end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("io_watch");
    TCase *t = tcase_create("watch");

    tcase_add_test(t, closed_and_moved_files_and_new_directories_are_told);
    tcase_add_test(t, the_owner_is_woken_once_until_it_has_read_everything);
    tcase_add_test(t, an_overflow_of_the_kernels_queue_is_told);
    tcase_add_test(t, what_is_missing_cannot_be_watched);
    tcase_add_test(t, a_file_knows_its_birth_its_change_and_its_writers);
    suite_add_tcase(s, t);
    return suite_main(s);
}
