/*
 * Watching directories: an inotify descriptor of our own, read by whoever owns the watch, and a
 * small thread that only tells when there is something to read.
 *
 * A watch posts its owner's task once and is then silent until the owner has read everything
 * (io_watch_next returned false): a task is posted once at a time, and an owner that is busy is not
 * told again for every name. The kernel keeps events meanwhile, up to its own limit; beyond that it
 * drops them and says so with one event (IN_Q_OVERFLOW → IO_WATCH_LOST), after which only a look at
 * the directories themselves helps. Nothing here is a promise: network file systems tell nothing of
 * what others do. Whoever watches also looks, more slowly.
 */
#define _GNU_SOURCE /* pthread_setname_np */
#include "io/io_posix.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#define WATCH_BUFFER 16384u /* room for at least 60 events */
#define WATCH_MASK                                                                                 \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR |       \
     IN_EXCL_UNLINK)

struct io_watch {
    struct io_lane *lane;
    struct io_task *task;
    int events, wake; /* descriptors: inotify, and the thread's alarm clock */
    pthread_t thread;
    _Atomic bool armed, closing;
    size_t at, len; /* of what was read and not yet given out: the owner's */
    _Alignas(struct inotify_event) char buffer[WATCH_BUFFER];
};

static void wake_thread(struct io_watch *w)
{
    uint64_t one = 1;

    while (write(w->wake, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void *watch_main(void *arg)
{
    struct io_watch *w = arg;

    (void)pthread_setname_np(pthread_self(), "watch");
    while (!atomic_load(&w->closing)) {
        bool armed = atomic_load(&w->armed);
        struct pollfd fds[2] = {{w->wake, POLLIN, 0}, {w->events, POLLIN, 0}};
        uint64_t n;

        if (poll(fds, armed ? 2 : 1, -1) < 0) {
            continue; /* a signal */
        }
        if (fds[0].revents) {
            (void)!read(w->wake, &n, sizeof n);
        }
        if (armed && fds[1].revents && !atomic_load(&w->closing)) {
            atomic_store(&w->armed, false);
            io_posix_lane_post(w->lane, w->task);
        }
    }
    return NULL;
}

/* Every signal stays with the host's threads. */
static int start_thread(struct io_watch *w)
{
    sigset_t all, before;

    (void)sigfillset(&all);
    int rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (rc == 0) {
        rc = pthread_create(&w->thread, NULL, watch_main, w);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    return rc;
}

int io_watch_open(struct io *io, struct io_lane *lane, struct io_task *task, struct io_watch **ret,
                  struct levee_error *err)
{
    if (io->simulated) {
        return err_set(err, LEVEE_EUNSUPPORTED, "the simulated machine watches no directories");
    }
    struct io_watch *w = mem_zalloc(sizeof *w);
    if (w == NULL) {
        return err_nomem(err, sizeof *w);
    }
    w->lane = lane;
    w->task = task;
    w->events = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    w->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    atomic_store(&w->armed, true);
    int rc = w->events < 0 || w->wake < 0 ? errno : start_thread(w);
    if (rc != 0) {
        if (w->events >= 0) {
            (void)close(w->events);
        }
        if (w->wake >= 0) {
            (void)close(w->wake);
        }
        mem_free(w);
        return err_sys(err, LEVEE_ELIMIT, rc, "cannot watch directories");
    }
    *ret = w;
    return LEVEE_OK;
}

void io_watch_close(struct io_watch *w)
{
    if (w == NULL) {
        return;
    }
    atomic_store(&w->closing, true);
    wake_thread(w);
    (void)pthread_join(w->thread, NULL);
    (void)close(w->events);
    (void)close(w->wake);
    mem_free(w);
}

int io_watch_add(struct io_watch *w, const char *path, int *ret_dir, struct levee_error *err)
{
    int dir = inotify_add_watch(w->events, path, WATCH_MASK);

    if (dir < 0) {
        int code = io_fail(err, errno, "watch", path);
        return errno == ENOSPC ? err_sys(err, LEVEE_ELIMIT, ENOSPC,
                                         "fs.inotify.max_user_watches is reached at %s", path)
                               : code;
    }
    *ret_dir = dir;
    return LEVEE_OK;
}

/* What an event means; false: nothing to anybody. */
static bool means(const struct inotify_event *e, struct io_watch_event *ret)
{
    *ret = (struct io_watch_event){.dir = e->wd, .name = e->len ? e->name : ""};
    if (e->mask & IN_Q_OVERFLOW) {
        ret->kind = IO_WATCH_LOST;
    } else if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT)) {
        ret->kind = IO_WATCH_GONE;
    } else if (e->mask & IN_ISDIR) {
        ret->kind = IO_WATCH_DIR;
        return (e->mask & (IN_CREATE | IN_MOVED_TO)) != 0;
    } else {
        ret->kind = IO_WATCH_FILE;
    }
    return true;
}

bool io_watch_next(struct io_watch *w, struct io_watch_event *ret)
{
    for (;;) {
        while (w->at < w->len) {
            /* The kernel aligns events for this. */
            const struct inotify_event *e =
                (const struct inotify_event *)(const void *)(w->buffer + w->at);
            w->at += sizeof *e + e->len;
            if (means(e, ret)) {
                return true;
            }
        }
        ssize_t n = read(w->events, w->buffer, sizeof w->buffer);
        w->at = 0;
        w->len = n > 0 ? (size_t)n : 0;
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
    }
    /* Armed before the thread looks again: what came between the read and this is not missed,
     * because the descriptor is then readable. */
    if (!atomic_exchange(&w->armed, true)) {
        wake_thread(w);
    }
    return false;
}
