/*
 * Locks: one owner of a file at a time, across processes and within one (faults 115 and 116).
 *
 *   K1  The lock is the kernel's flock. It ends with the process however that dies, and holds
 *       between containers on one kernel. The pid in the file only names the holder in an error.
 *   K2  A list of the locked (device, inode) pairs of this process refuses a second lock here,
 *       whatever path leads to the file.
 *   K3  unlock closes and no more: an explicit LOCK_UN in a forked child would release the parent's
 *       lock, for both share it. The file stays: removing it would let two owners lock two files of
 *       one name.
 */
#define _GNU_SOURCE /* flock */
#include "io/io_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A lock file that is replaced each time we look is somebody else's game. */
#define LOCK_TRIES 8
#define PID_TEXT   11 /* ten digits and a newline: one overwrite replaces the whole text */

/* A lock of this process, in the list of all of them. */
struct io_lock {
    struct io_lock *next;
    int fd;
    dev_t dev;
    ino_t inode;
};

static pthread_mutex_t locks_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct io_lock *locks; /* guarded by locks_mutex */

static int busy(struct levee_error *err, const char *path, const char *holder)
{
    int code = err_set(err, LEVEE_EDIR_BUSY, "in use by %s", holder);

    err_where(err, "%s", path);
    err_expected(err, "nobody holds the lock");
    err_found(err, "held by %s", holder);
    return code;
}

/* Names the holder from the text in the lock file; the text is a courtesy, flock is the lock. */
static int busy_elsewhere(int fd, const char *path, struct levee_error *err)
{
    char text[PID_TEXT + 1] = {0};
    char holder[64] = "another process";
    ssize_t n = pread(fd, text, PID_TEXT, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;

    if (pid > 0) {
        (void)snprintf(holder, sizeof holder, "process %ld", pid);
    }
    return busy(err, path, holder);
}

/* Opens and locks; refuses what this process holds already. Called under locks_mutex. */
static int take_lock(struct io_lock *lock, const char *path, bool *ret_replaced, bool *ret_created,
                     struct levee_error *err)
{
    struct stat st;
    struct stat named;

    *ret_replaced = false;
    lock->fd = io_posix_create_fd(path, O_RDWR, false, ret_created);
    if (lock->fd < 0 || fstat(lock->fd, &st) < 0) {
        return io_fail(err, errno, "open lock file", path);
    }
    lock->dev = st.st_dev;
    lock->inode = st.st_ino;
    for (struct io_lock *held = locks; held != NULL; held = held->next) {
        if (held->dev == lock->dev && held->inode == lock->inode) {
            char holder[64];
            (void)snprintf(holder, sizeof holder, "this process (%ld)", (long)getpid());
            return busy(err, path, holder);
        }
    }
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK) {
            return busy_elsewhere(lock->fd, path, err);
        }
        return io_fail(err, errno, "lock", path);
    }
    /* Somebody may have removed or replaced the file between our open and our flock: a lock on a
     * file that no longer has the name excludes nobody. */
    *ret_replaced =
        stat(path, &named) < 0 || named.st_dev != st.st_dev || named.st_ino != st.st_ino;
    return LEVEE_OK;
}

/* The holder's pid, for the message of whoever comes second. A full disk must not keep a context
 * from starting (design 4d.13), so a failure only blunts that message. */
static void write_pid(int fd)
{
    char text[32];

    (void)snprintf(text, sizeof text, "%-*ld\n", PID_TEXT - 1, (long)getpid());
    if (pwrite(fd, text, PID_TEXT, 0) != PID_TEXT && ftruncate(fd, 0) < 0) {
        return; /* then the text may name an earlier holder: still only a text */
    }
}

int io_posix_lock(struct io *io, const char *path, struct io_lock **ret, struct levee_error *err)
{
    bool replaced = true;
    bool created = false;
    int rc = LEVEE_OK;
    struct io_lock *lock = mem_zalloc(sizeof *lock);

    if (lock == NULL) {
        return err_nomem(err, sizeof *lock);
    }
    (void)pthread_mutex_lock(&locks_mutex);
    for (int i = 0; i < LOCK_TRIES && replaced; i++) {
        rc = take_lock(lock, path, &replaced, &created, err);
        if (created) {
            counter_add(&io->counts.creates, 1);
        }
        if ((rc != LEVEE_OK || replaced) && lock->fd >= 0) {
            (void)close(lock->fd); /* ends the flock as well */
        }
        if (rc != LEVEE_OK) {
            break;
        }
    }
    if (rc == LEVEE_OK && replaced) {
        rc = busy(err, path, "a process that keeps replacing it");
    }
    if (rc == LEVEE_OK) {
        write_pid(lock->fd);
        lock->next = locks;
        locks = lock;
        *ret = lock;
    } else {
        mem_free(lock);
    }
    (void)pthread_mutex_unlock(&locks_mutex);
    return rc;
}

void io_posix_unlock(struct io_lock *lock)
{
    struct stat st;

    (void)pthread_mutex_lock(&locks_mutex);
    for (struct io_lock **at = &locks; *at != NULL; at = &(*at)->next) {
        if (*at == lock) {
            *at = lock->next;
            break;
        }
    }
    if (fstat(lock->fd, &st) == 0 && st.st_dev == lock->dev && st.st_ino == lock->inode) {
        (void)close(lock->fd); /* K3 */
    }
    (void)pthread_mutex_unlock(&locks_mutex);
    mem_free(lock);
}
