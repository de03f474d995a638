/*
 * What every io does, whichever it is: the same tests run on the real file system, on the
 * simulator, and on the simulator with short counts and interruptions injected into every read and
 * write (faults 23, 24). Neither process death nor power loss is covered here; see test_io_sim.c
 * and the kill tests.
 */
#include "tests/support/suite.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/io.h"

enum world { REAL, SIMULATED, HARASSED, WORLDS };

static struct io *io;
static const struct io_ops *ops;
static struct levee_error err;
static char root[IO_PATH_MAX]; /* an empty directory */

static void open_world(int world)
{
    if (world == REAL) {
        const char *tmp = getenv("TMPDIR");
        snprintf(root, sizeof root, "%s/levee-io-XXXXXX", tmp != NULL ? tmp : "/tmp");
        ck_assert_ptr_nonnull(mkdtemp(root));
        ck_assert_int_eq(io_posix_new(&io, &err), LEVEE_OK);
    } else {
        struct sim_faults faults = {.seed = 7};
        if (world == HARASSED) {
            faults.short_write_per_mille = 500;
            faults.eintr_per_mille = 400;
        }
        ck_assert_int_eq(io_sim_new(&faults, &io, &err), LEVEE_OK);
        snprintf(root, sizeof root, "/data");
        ck_assert_int_eq(io->ops->mkdir(io, root, &err), LEVEE_OK);
    }
    ops = io->ops;
}

static void remove_tree(const char *path)
{
    struct io_list list = {0};
    struct io_stat st;

    ck_assert_int_eq(ops->list(io, path, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        char child[IO_PATH_MAX];
        ck_assert_int_eq(io_path(child, path, list.items[i].name, &err), LEVEE_OK);
        ck_assert_int_eq(ops->stat(io, child, &st, &err), LEVEE_OK);
        if (st.kind == IO_DIR) {
            remove_tree(child);
        } else {
            ck_assert_int_eq(ops->unlink(io, child, &err), LEVEE_OK);
        }
    }
    io_list_free(&list);
    if (!io->simulated) {
        ck_assert_int_eq(rmdir(path), 0);
    }
}

static void close_world(void)
{
    remove_tree(root);
    io_free(io);
}

static const char *at(const char *name)
{
    static char paths[4][IO_PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];

    ck_assert_int_eq(io_path(path, root, name, &err), LEVEE_OK);
    return path;
}

static struct io_file *must_open(const char *name, int flags)
{
    struct io_file *f = NULL;

    int rc = ops->open(io, at(name), flags, &f, &err);
    ck_assert_msg(rc == LEVEE_OK, "open %s: %s", name, err.what);
    return f;
}

static void must_write(struct io_file *f, const void *data, size_t len, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};

    ck_assert_int_eq(ops->pwritev(f, &iov, 1, offset, &err), LEVEE_OK);
}

static void put_file(const char *name, const char *text)
{
    struct io_file *f = must_open(name, IO_WRITE | IO_CREATE | IO_TRUNCATE);

    must_write(f, text, strlen(text), 0);
    ops->close(f);
}

static void expect_file(const char *name, const char *text)
{
    struct buf got = {0};

    ck_assert_int_eq(io_read_file(io, at(name), 1 << 20, &got, &err), LEVEE_OK);
    ck_assert_uint_eq(got.len, strlen(text));
    ck_assert_ptr_nonnull(got.data); /* an empty file is not an absent one */
    ck_assert_mem_eq(got.data, text, strlen(text));
    buf_release(&got);
}

static enum io_kind kind_of(const char *name)
{
    struct io_stat st;

    ck_assert_int_eq(ops->stat(io, at(name), &st, &err), LEVEE_OK);
    return st.kind;
}

/* ---- bytes ---- */

/* 200 vectors, many of them empty, more than one system call takes, against a flat copy. */
START_TEST(test_vectors_arrive_whole)
{
    enum { COUNT = 200, MAX = 700 };
    static uint8_t source[COUNT][MAX];
    static uint8_t model[COUNT * MAX + 4096];
    static uint8_t got[sizeof model];
    struct iovec iov[COUNT];
    uint64_t rng = 42;
    size_t len = 0;
    size_t n = 0;

    open_world(_i);
    struct io_file *f = must_open("vectors", IO_WRITE | IO_CREATE);
    for (int round = 0; round < 3; round++) {
        uint64_t offset = 1000 * (uint64_t)round + 13; /* rounds overlap */
        size_t end = offset;
        for (int i = 0; i < COUNT; i++) {
            size_t bytes = rng_next(&rng) % 3 == 0 ? 0 : rng_next(&rng) % MAX;
            for (size_t k = 0; k < bytes; k++) {
                source[i][k] = (uint8_t)rng_next(&rng);
            }
            iov[i] = (struct iovec){.iov_base = source[i], .iov_len = bytes};
            memcpy(model + end, source[i], bytes);
            end += bytes;
        }
        uint64_t writes = counter_get(&io->counts.writes);
        uint64_t bytes = counter_get(&io->counts.write_bytes);
        ck_assert_int_eq(ops->pwritev(f, iov, COUNT, offset, &err), LEVEE_OK);
        ck_assert_uint_eq(counter_get(&io->counts.writes), writes + 1);
        ck_assert_uint_eq(counter_get(&io->counts.write_bytes), bytes + end - offset);
        len = end > len ? end : len;
    }
    ck_assert_int_eq(ops->pread(f, got, sizeof got, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, len);
    ck_assert_mem_eq(got, model, len);
    ck_assert_int_eq(ops->pread(f, got, 100, len - 40, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 40);
    ck_assert_int_eq(ops->pread(f, got, 100, len + 40, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(ops->pwritev(f, iov, 0, 0, &err), LEVEE_OK); /* no vectors: nothing to do */
    ops->close(f);
    close_world();
}
END_TEST

START_TEST(test_pread_all_refuses_a_short_file)
{
    uint8_t got[16];

    open_world(_i);
    put_file("short", "0123456789");
    struct io_file *f = must_open("short", IO_READ);
    ck_assert_int_eq(io_pread_all(f, io, got, 10, 0, &err), LEVEE_OK);
    ck_assert_mem_eq(got, "0123456789", 10);
    ck_assert_int_eq(io_pread_all(f, io, got, 10, 5, &err), LEVEE_EIO);
    ck_assert_str_eq(err.expected, "10 bytes");
    ck_assert_str_eq(err.found, "5 bytes");
    ops->close(f);
    close_world();
}
END_TEST

START_TEST(test_open_flags)
{
    struct io_file *f = NULL;
    struct io_stat st;

    open_world(_i);
    ck_assert_int_eq(ops->open(io, at("a"), IO_READ, &f, &err), LEVEE_ENOTFOUND);
    ck_assert_int_eq(err.sys_errno, ENOENT);
    ck_assert_int_eq(ops->open(io, at("no/a"), IO_WRITE | IO_CREATE, &f, &err), LEVEE_ENOTFOUND);
    f = must_open("a", IO_WRITE | IO_CREATE | IO_EXCL);
    must_write(f, "xyz", 3, 0);
    ops->close(f);
    ck_assert_int_eq(ops->open(io, at("a"), IO_WRITE | IO_CREATE | IO_EXCL, &f, &err),
                     LEVEE_EEXISTS);
    f = must_open("a", IO_WRITE | IO_CREATE); /* keeps what is there */
    ck_assert_int_eq(ops->fstat(f, &st, &err), LEVEE_OK);
    ck_assert_uint_eq(st.size, 3);
    ops->close(f);
    f = must_open("a", IO_WRITE | IO_TRUNCATE);
    ck_assert_int_eq(ops->fstat(f, &st, &err), LEVEE_OK);
    ck_assert_uint_eq(st.size, 0);
    ops->close(f);
    f = must_open("a", IO_READ);
    struct iovec iov = {.iov_base = root, .iov_len = 1};
    ck_assert_int_ne(ops->pwritev(f, &iov, 1, 0, &err), LEVEE_OK);
    ck_assert_int_eq(err.sys_errno, EBADF);
    ops->close(f);
    ck_assert_uint_eq(counter_get(&io->counts.creates), 1);
    close_world();
}
END_TEST

START_TEST(test_truncate_cuts_and_grows_with_zeros)
{
    uint8_t got[3000];
    uint8_t model[3000];
    size_t n;

    open_world(_i);
    struct io_file *f = must_open("t", IO_WRITE | IO_CREATE);
    memset(model, 'x', sizeof model);
    must_write(f, model, 2000, 0);
    ck_assert_int_eq(ops->truncate(f, 700, &err), LEVEE_OK);
    ck_assert_int_eq(ops->truncate(f, 2500, &err), LEVEE_OK);
    memset(model + 700, 0, 1800);
    ck_assert_int_eq(ops->pread(f, got, sizeof got, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 2500);
    ck_assert_mem_eq(got, model, 2500);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ck_assert_int_eq(ops->write_back(f, 0, 2500, &err), LEVEE_OK);
    ck_assert_uint_eq(counter_get(&io->counts.syncs), 1);
    ops->close(f);
    close_world();
}
END_TEST

/* ---- names ---- */

START_TEST(test_names)
{
    struct io_stat one;
    struct io_stat two;
    struct io_list list = {0};

    open_world(_i);
    put_file("b", "first");
    put_file("a", "second");
    ck_assert_int_eq(ops->rename(io, at("a"), at("b"), &err), LEVEE_OK); /* replaces */
    expect_file("b", "second");
    ck_assert_int_eq(kind_of("a"), IO_NONE);
    ck_assert_int_eq(ops->rename(io, at("a"), at("c"), &err), LEVEE_ENOTFOUND);

    ck_assert_int_eq(ops->link(io, at("b"), at("z"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->link(io, at("b"), at("z"), &err), LEVEE_EEXISTS);
    ck_assert_int_eq(ops->stat(io, at("b"), &one, &err), LEVEE_OK);
    ck_assert_int_eq(ops->stat(io, at("z"), &two, &err), LEVEE_OK);
    ck_assert_uint_eq(one.inode, two.inode);
    ck_assert_uint_eq(one.dev, two.dev);
    ck_assert_uint_eq(one.size, 6);

    ck_assert_int_eq(ops->mkdir(io, at("m"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, at("m"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, at("b"), &err), LEVEE_EEXISTS);
    ck_assert_int_eq(ops->mkdir(io, at("no/m"), &err), LEVEE_ENOTFOUND);
    ck_assert_int_eq(kind_of("m"), IO_DIR);
    ck_assert_int_eq(kind_of("b/x"), IO_NONE); /* a file on the way: no such name, not an error */
    put_file("m/inner", "i");

    ck_assert_int_eq(ops->list(io, root, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, 3);
    ck_assert_str_eq(list.items[0].name, "b");
    ck_assert_str_eq(list.items[1].name, "m");
    ck_assert_str_eq(list.items[2].name, "z");
    io_list_free(&list);
    ck_assert_ptr_null(list.items);
    ck_assert_int_eq(ops->list(io, at("nowhere"), &list, &err), LEVEE_ENOTFOUND);

    ck_assert_int_eq(ops->rename(io, at("m/inner"), at("outer"), &err), LEVEE_OK);
    expect_file("outer", "i");
    ck_assert_int_eq(kind_of("m/inner"), IO_NONE);
    ck_assert_int_eq(ops->unlink(io, at("b"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->unlink(io, at("b"), &err), LEVEE_ENOTFOUND);
    expect_file("z", "second");
    ck_assert_int_eq(ops->sync_dir(io, root, &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, at("nowhere"), &err), LEVEE_ENOTFOUND);
    ck_assert_uint_eq(counter_get(&io->counts.renames), 2);
    ck_assert_uint_eq(counter_get(&io->counts.unlinks), 1);
    ck_assert_uint_eq(counter_get(&io->counts.creates), 3);
    close_world();
}
END_TEST

/* Directories move within limits; what is refused has changed nothing. */
START_TEST(test_directories_and_refusals)
{
    char longest[300];

    open_world(_i);
    ck_assert_int_eq(ops->mkdir(io, at("d"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, at("d/e"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, at("full"), &err), LEVEE_OK);
    put_file("d/e/f", "deep");
    put_file("full/g", "g");
    put_file("file", "x");
    int refused[] = {
        ops->rename(io, at("d"), at("d/e/d"), &err), /* into itself */
        ops->rename(io, at("d"), at("full"), &err),  /* onto one that is not empty */
        ops->rename(io, at("file"), at("d"), &err),
        ops->rename(io, at("d"), at("file"), &err),
        ops->rename(io, at("file"), at("nowhere/f"), &err),
        ops->rename(io, at("file"), at("file/f"), &err),
        ops->link(io, at("d"), at("l"), &err),
        ops->link(io, at("none"), at("l"), &err),
        ops->unlink(io, at("d"), &err),
        ops->sync_dir(io, at("file"), &err),
    };
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        ck_assert_msg(refused[i] < 0, "call %zu was not refused", i);
    }
    memset(longest, 'n', sizeof longest);
    longest[256] = '\0';
    struct io_file *f = NULL;
    ck_assert_int_eq(ops->open(io, at(longest), IO_WRITE | IO_CREATE, &f, &err), LEVEE_ELIMIT);
    expect_file("d/e/f", "deep");
    expect_file("file", "x");
    ck_assert_int_eq(ops->rename(io, at("d/e"), at("full/e"), &err), LEVEE_OK);
    expect_file("full/e/f", "deep");
    ck_assert_int_eq(kind_of("d/e"), IO_NONE);
    ck_assert_int_eq(ops->link(io, at("file"), at("twin"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->rename(io, at("file"), at("twin"), &err), LEVEE_OK); /* one file: no-op */
    expect_file("file", "x");
    expect_file("./twin", "x");
    close_world();
}
END_TEST

START_TEST(test_removed_file_stays_readable_while_open)
{
    char got[8];
    size_t n;

    open_world(_i);
    put_file("a", "still");
    struct io_file *f = must_open("a", IO_READ);
    ck_assert_int_eq(ops->unlink(io, at("a"), &err), LEVEE_OK);
    put_file("a", "other");
    ck_assert_int_eq(ops->pread(f, got, sizeof got, 0, &n, &err), LEVEE_OK);
    ck_assert_uint_eq(n, 5);
    ck_assert_mem_eq(got, "still", 5);
    ops->close(f);
    close_world();
}
END_TEST

START_TEST(test_path_helpers)
{
    char path[IO_PATH_MAX];
    char longest[IO_PATH_MAX + 8];

    open_world(_i);
    ck_assert_int_eq(io_path(path, "/a", "b", &err), LEVEE_OK);
    ck_assert_str_eq(path, "/a/b");
    ck_assert_int_eq(io_path(path, path, "c", &err), LEVEE_OK); /* in place */
    ck_assert_str_eq(path, "/a/b/c");
    ck_assert_int_eq(io_path(path, "/", "x", &err), LEVEE_OK);
    ck_assert_str_eq(path, "/x");
    memset(longest, 'n', sizeof longest);
    longest[IO_PATH_MAX - 3] = '\0'; /* one too many with "/d/" and the end */
    ck_assert_int_eq(io_path(path, "/d", longest, &err), LEVEE_ELIMIT);
    ck_assert_str_eq(path, "/x");
    longest[IO_PATH_MAX - 4] = '\0';
    ck_assert_int_eq(io_path(path, "/d", longest, &err), LEVEE_OK);
    ck_assert_uint_eq(strlen(path), IO_PATH_MAX - 1);
    close_world();
}
END_TEST

/* ---- helpers ---- */

static enum crash_point points[8];
static size_t point_count;

static void note_point(enum crash_point point, void *arg)
{
    ck_assert_ptr_eq(arg, &point_count);
    ck_assert_uint_lt(point_count, ARRAY_LEN(points));
    points[point_count++] = point;
}

START_TEST(test_publish_and_read)
{
    struct buf got = {0};
    struct io_list list = {0};
    static const enum crash_point order[] = {CP_PUBLISH_AFTER_WRITE, CP_PUBLISH_AFTER_SYNC,
                                             CP_PUBLISH_AFTER_RENAME, CP_PUBLISH_AFTER_DIR_SYNC};

    open_world(_i);
    ck_assert_int_eq(io_publish(io, root, "f", slice_str("one"), &err), LEVEE_OK);
    expect_file("f", "one");
    io->crash_hook = note_point;
    io->crash_arg = &point_count;
    point_count = 0;
    uint64_t syncs = counter_get(&io->counts.syncs);
    ck_assert_int_eq(io_publish(io, root, "f", slice_str("second"), &err), LEVEE_OK);
    ck_assert_uint_eq(counter_get(&io->counts.syncs), syncs + 1);
    ck_assert_uint_eq(counter_get(&io->counts.dir_syncs), 2);
    io->crash_hook = NULL;
    ck_assert_uint_eq(point_count, ARRAY_LEN(order));
    ck_assert_mem_eq(points, order, sizeof order);
    ck_assert_str_eq(crash_point_name(CP_PUBLISH_AFTER_SYNC), "PUBLISH_AFTER_SYNC");
    expect_file("f", "second");
    ck_assert_int_eq(io_publish(io, root, "empty", slice_of("", 0), &err), LEVEE_OK);
    expect_file("empty", "");

    ck_assert_int_eq(io_read_file(io, at("f"), 5, &got, &err), LEVEE_ELIMIT);
    ck_assert_str_eq(err.expected, "at most 5 bytes");
    ck_assert_str_eq(err.found, "6 bytes");
    ck_assert_int_eq(io_read_file(io, at("f"), 6, &got, &err), LEVEE_OK);
    ck_assert_int_eq(io_read_file(io, at("nothing"), 6, &got, &err), LEVEE_ENOTFOUND);
    buf_release(&got);

    /* A failure leaves neither the file nor its temporary name. */
    ck_assert_int_eq(ops->mkdir(io, at("taken"), &err), LEVEE_OK);
    put_file("taken/x", "x");
    ck_assert_int_ne(io_publish(io, root, "taken", slice_str("no"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->list(io, root, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        ck_assert_msg(!io_is_temp(list.items[i].name), "%s was left", list.items[i].name);
    }
    ck_assert_uint_eq(list.count, 3);
    io_list_free(&list);
    ck_assert(io_is_temp("f" IO_TEMP_SUFFIX));
    ck_assert(!io_is_temp("tmp"));
    close_world();
}
END_TEST

START_TEST(test_hash_file_is_the_hash_of_its_bytes)
{
    static const size_t sizes[] = {0, 1, (1u << 20) - 1, 1u << 20, (1u << 20) + 1, (2u << 20) + 17};
    uint8_t *bytes = mem_alloc(3u << 20);
    uint64_t rng = 5;

    open_world(_i);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < 3u << 20; i++) {
        bytes[i] = (uint8_t)rng_next(&rng);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint64_t size = 77;
        uint64_t hash = 77;
        struct io_file *f = must_open("h", IO_WRITE | IO_CREATE | IO_TRUNCATE);
        must_write(f, bytes, sizes[i], 0);
        ops->close(f);
        ck_assert_int_eq(io_hash_file(io, at("h"), &size, &hash, &err), LEVEE_OK);
        ck_assert_uint_eq(size, sizes[i]);
        ck_assert_uint_eq(hash, hash64(bytes, sizes[i], 0));
    }
    uint64_t untouched = 3;
    ck_assert_int_eq(io_hash_file(io, at("none"), &untouched, &untouched, &err), LEVEE_ENOTFOUND);
    ck_assert_uint_eq(untouched, 3);
    mem_free(bytes);
    close_world();
}
END_TEST

START_TEST(test_quarantine_never_overwrites)
{
    struct io_list list = {0};

    open_world(_i);
    ck_assert_int_eq(ops->mkdir(io, at("wal"), &err), LEVEE_OK);
    for (int i = 0; i < 3; i++) {
        char text[2] = {(char)('0' + i), '\0'};
        put_file("wal/seg", text);
        ck_assert_int_eq(io_quarantine(io, root, at("wal/seg"), &err), LEVEE_OK);
        ck_assert_int_eq(kind_of("wal/seg"), IO_NONE);
    }
    expect_file("quarantine/seg", "0");
    expect_file("quarantine/seg.1", "1");
    expect_file("quarantine/seg.2", "2");
    ck_assert_int_eq(ops->list(io, at("quarantine"), &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, 3);
    io_list_free(&list);
    ck_assert_int_eq(io_quarantine(io, root, at("wal/seg"), &err), LEVEE_ENOTFOUND);
    close_world();
}
END_TEST

/* Fault 116: the second lock in one process, by the same path, by another path, from another io. */
START_TEST(test_second_lock_in_this_process_is_refused)
{
    struct io_lock *first = NULL;
    struct io_lock *second = NULL;
    char pid[16];

    open_world(_i);
    snprintf(pid, sizeof pid, "(%d)", (int)getpid());
    ck_assert_int_eq(ops->lock(io, at("lock"), &first, &err), LEVEE_OK);
    ck_assert_int_eq(ops->lock(io, at("lock"), &second, &err), LEVEE_EDIR_BUSY);
    ck_assert_ptr_null(second);
    ck_assert_ptr_nonnull(strstr(err.what, pid));
    ck_assert_int_eq(ops->link(io, at("lock"), at("alias"), &err), LEVEE_OK);
    ck_assert_int_eq(ops->lock(io, at("alias"), &second, &err), LEVEE_EDIR_BUSY);
    ops->unlock(first);
    ck_assert_int_eq(ops->lock(io, at("lock"), &first, &err), LEVEE_OK);
    ops->unlock(first);
    close_world();
}
END_TEST

/* Fault 113. */
START_TEST(test_a_forked_child_is_told_off)
{
    int status = -1;

    open_world(_i);
    ck_assert_int_eq(io_check_fork(io, &err), LEVEE_OK);
    pid_t child = fork();
    if (child == 0) {
        _exit(io_check_fork(io, NULL) == LEVEE_EFORKED ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    close_world();
}
END_TEST

START_TEST(test_space_kind_and_clocks)
{
    uint64_t space = 0;
    const char *type = NULL;

    open_world(_i);
    ck_assert_int_eq(ops->free_space(io, root, &space, &err), LEVEE_OK);
    ck_assert_uint_gt(space, 0);
    ck_assert_int_eq(ops->free_space(io, at("nowhere"), &space, &err), LEVEE_ENOTFOUND);
    ck_assert_int_eq(ops->fs_type(io, root, &type, &err), LEVEE_OK);
    ck_assert_ptr_nonnull(type);
    ck_assert_int_eq(ops->fs_type(io, at("nowhere"), &type, &err), LEVEE_ENOTFOUND);
    uint64_t now = ops->now_ns(io);
    ck_assert_uint_gt(now, 0);
    ck_assert_uint_ge(ops->now_ns(io), now);
    ck_assert(ops->wall_ms(io) > INT64_C(1600000000000)); /* after 2020 */
    uint64_t drawn[64];
    for (size_t i = 0; i < ARRAY_LEN(drawn); i++) {
        drawn[i] = ops->random(io);
        for (size_t k = 0; k < i; k++) {
            ck_assert_uint_ne(drawn[i], drawn[k]);
        }
    }
    close_world();
}
END_TEST

/* ---- lanes ---- */

struct noted {
    struct io_task task;
    int number;
    bool on_lane;
};

static struct io_lane *lane;
static int order[64]; /* written on the lane, read after it was closed or waited for */
static _Atomic int ran;
static struct noted *victim; /* cancelled by whoever runs first */
static struct noted *again;  /* posted by whoever runs first */
static bool cancelled;

static void note_run(struct io_task *task)
{
    struct noted *noted = CONTAINER_OF(task, struct noted, task);

    noted->on_lane = ops->lane_current(lane);
    if (victim != NULL) {
        struct noted *v = victim;
        victim = NULL;
        cancelled = ops->lane_cancel(lane, &v->task);
    }
    if (again != NULL) {
        struct noted *a = again;
        again = NULL;
        ops->lane_post(lane, &a->task);
    }
    order[ran] = noted->number;
    ran++;
    ops->notify(io);
}

static bool ran_enough(void *arg)
{
    return ran >= *(int *)arg;
}

static void make_tasks(struct noted *tasks, int count)
{
    for (int i = 0; i < count; i++) {
        tasks[i] = (struct noted){.task.run = note_run, .number = i};
    }
    ran = 0;
    victim = again = NULL;
    ck_assert_int_eq(ops->lane_open(io, "test", &lane, &err), LEVEE_OK);
    ck_assert(!ops->lane_current(lane));
}

START_TEST(test_a_lane_runs_in_order)
{
    struct noted tasks[20];
    int all = ARRAY_LEN(tasks);

    open_world(_i);
    make_tasks(tasks, all);
    for (int i = 0; i < all; i++) {
        ops->lane_post(lane, &tasks[i].task);
    }
    ck_assert(ops->wait(io, ran_enough, &all, UINT64_MAX));
    for (int i = 0; i < all; i++) {
        ck_assert_int_eq(order[i], i);
        ck_assert(tasks[i].on_lane);
    }
    ops->lane_close(lane);
    close_world();
}
END_TEST

START_TEST(test_timed_tasks_run_when_due_and_in_order)
{
    struct noted tasks[6];
    static const uint64_t delay_ms[] = {30, 10, 20, 10, 0, 25};
    static const int expected[] = {4, 1, 3, 2, 5, 0}; /* equal times in the order posted */
    int all = ARRAY_LEN(tasks);

    open_world(_i);
    make_tasks(tasks, all);
    uint64_t start = ops->now_ns(io);
    for (int i = 0; i < all; i++) {
        ops->lane_post_at(lane, &tasks[i].task, start + delay_ms[i] * 1000000);
    }
    ck_assert(ops->wait(io, ran_enough, &all, UINT64_MAX));
    ck_assert_uint_ge(ops->now_ns(io), start + 30000000);
    ck_assert_mem_eq(order, expected, sizeof expected);
    ops->lane_close(lane);
    close_world();
}
END_TEST

START_TEST(test_cancel_takes_back_a_timed_task_but_not_one_that_is_not_queued)
{
    struct noted tasks[3];
    int two = 2;

    open_world(_i);
    make_tasks(tasks, 3);
    ops->lane_post_at(lane, &tasks[1].task, ops->now_ns(io) + UINT64_C(3600000000000));
    victim = &tasks[1];
    again = &tasks[2];
    ops->lane_post(lane, &tasks[0].task);
    ck_assert(ops->wait(io, ran_enough, &two, UINT64_MAX));
    ck_assert(cancelled);
    victim = &tasks[0]; /* has run */
    two = 3;
    ops->lane_post(lane, &tasks[2].task);
    ck_assert(ops->wait(io, ran_enough, &two, UINT64_MAX));
    ops->lane_close(lane);
    ck_assert(!cancelled);
    ck_assert(!tasks[1].task.queued);
    ck_assert_int_eq(ran, 3);
    ck_assert_int_eq(order[0], 0);
    ck_assert_int_eq(order[1], 2);
    ck_assert_int_eq(order[2], 2);
    close_world();
}
END_TEST

/* A task that queues three more, cancels the middle one, and sees the others run in order. */
static struct noted family[3];

static void start_family(struct io_task *task)
{
    (void)task;
    for (int i = 0; i < 3; i++) {
        ops->lane_post(lane, &family[i].task);
    }
    cancelled = ops->lane_cancel(lane, &family[2].task); /* the tail … */
    ops->lane_post(lane, &family[2].task);               /* … may come back */
    cancelled = cancelled && ops->lane_cancel(lane, &family[1].task);
}

START_TEST(test_cancel_in_a_queue_keeps_the_rest)
{
    struct io_task start = {.run = start_family};
    int two = 2;

    open_world(_i);
    make_tasks(family, 3);
    ops->lane_post(lane, &start);
    ck_assert(ops->wait(io, ran_enough, &two, UINT64_MAX));
    ops->lane_close(lane);
    ck_assert(cancelled);
    ck_assert_int_eq(ran, 2);
    ck_assert_int_eq(order[0], 0);
    ck_assert_int_eq(order[1], 2);
    close_world();
}
END_TEST

START_TEST(test_close_runs_what_is_queued_and_drops_what_is_timed)
{
    struct noted tasks[12];

    open_world(_i);
    make_tasks(tasks, 12);
    ops->lane_post_at(lane, &tasks[10].task, ops->now_ns(io) + UINT64_C(3600000000000));
    again = &tasks[11]; /* posted from within the drain: runs as well */
    for (int i = 0; i < 10; i++) {
        ops->lane_post(lane, &tasks[i].task);
    }
    ops->lane_close(lane);
    ck_assert_int_eq(ran, 11);
    ck_assert(!tasks[10].task.queued);
    bool seen = false;
    for (int i = 0; i < 11; i++) {
        seen = seen || order[i] == 11;
        ck_assert_int_ne(order[i], 10);
    }
    ck_assert(seen);
    close_world();
}
END_TEST

static bool never(void *arg)
{
    ++*(int *)arg;
    return false;
}

START_TEST(test_wait_ends_at_its_deadline)
{
    int asked = 0;
    int none = 0;

    open_world(_i);
    uint64_t deadline = ops->now_ns(io) + 3000000;
    ck_assert(!ops->wait(io, never, &asked, deadline));
    ck_assert_int_ge(asked, 1);
    ck_assert_uint_ge(ops->now_ns(io), deadline);
    ran = 0;
    ck_assert(ops->wait(io, ran_enough, &none, 0)); /* true beats a deadline that has passed */
    ck_assert(!ops->wait(io, never, &asked, 0));
    close_world();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_both");
    TCase *files = tcase_create("files");
    TCase *lanes = tcase_create("lanes");

    tcase_set_timeout(files, 60);
    tcase_add_loop_test(files, test_vectors_arrive_whole, 0, WORLDS);
    tcase_add_loop_test(files, test_pread_all_refuses_a_short_file, 0, WORLDS);
    tcase_add_loop_test(files, test_open_flags, 0, WORLDS);
    tcase_add_loop_test(files, test_truncate_cuts_and_grows_with_zeros, 0, WORLDS);
    tcase_add_loop_test(files, test_names, 0, WORLDS);
    tcase_add_loop_test(files, test_directories_and_refusals, 0, WORLDS);
    tcase_add_loop_test(files, test_removed_file_stays_readable_while_open, 0, WORLDS);
    tcase_add_loop_test(files, test_path_helpers, 0, WORLDS);
    tcase_add_loop_test(files, test_publish_and_read, 0, WORLDS);
    tcase_add_loop_test(files, test_hash_file_is_the_hash_of_its_bytes, 0, WORLDS);
    tcase_add_loop_test(files, test_quarantine_never_overwrites, 0, WORLDS);
    tcase_add_loop_test(files, test_second_lock_in_this_process_is_refused, 0, WORLDS);
    tcase_add_loop_test(files, test_a_forked_child_is_told_off, 0, WORLDS);
    tcase_add_loop_test(files, test_space_kind_and_clocks, 0, WORLDS);
    suite_add_tcase(suite, files);
    tcase_set_timeout(lanes, 60);
    tcase_add_loop_test(lanes, test_a_lane_runs_in_order, 0, WORLDS);
    tcase_add_loop_test(lanes, test_timed_tasks_run_when_due_and_in_order, 0, WORLDS);
    tcase_add_loop_test(lanes, test_cancel_takes_back_a_timed_task_but_not_one_that_is_not_queued,
                        0, WORLDS);
    tcase_add_loop_test(lanes, test_cancel_in_a_queue_keeps_the_rest, 0, WORLDS);
    tcase_add_loop_test(lanes, test_close_runs_what_is_queued_and_drops_what_is_timed, 0, WORLDS);
    tcase_add_loop_test(lanes, test_wait_ends_at_its_deadline, 0, WORLDS);
    suite_add_tcase(suite, lanes);
    return suite_main(suite);
}
