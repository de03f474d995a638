/* What the files of io_posix share. */
#ifndef LEVEE_IO_POSIX_H
#define LEVEE_IO_POSIX_H

#include <pthread.h>
#include <time.h>

#include "io/io_impl.h"

struct posix_io {
    struct io head;
    /* wait and notify: notify adds to `turn`, and takes the mutex only when somebody waits. */
    _Atomic uint64_t turn;
    _Atomic uint32_t waiters;
    pthread_mutex_t wait_mutex;
    pthread_cond_t wait_cond; /* on CLOCK_MONOTONIC */
    _Atomic uint32_t lanes;   /* open ones */
};

static inline struct posix_io *posix_io(struct io *io)
{
    return CONTAINER_OF(io, struct posix_io, head);
}

uint64_t io_posix_clock_ns(clockid_t clock);
uint64_t io_posix_now_ns(struct io *io);

/* Opens or, if missing, creates; *ret_created says which. -1 and errno. (io_posix.c) */
int io_posix_create_fd(const char *path, int flags, bool exclusive, bool *ret_created);

int io_posix_lock(struct io *io, const char *path, struct io_lock **ret, struct levee_error *err);
void io_posix_unlock(struct io_lock *lock);

int io_posix_lanes_init(struct posix_io *posix, struct levee_error *err);
void io_posix_lanes_release(struct posix_io *posix);
int io_posix_lane_open(struct io *io, const char *name, struct io_lane **ret,
                       struct levee_error *err);
void io_posix_lane_post(struct io_lane *lane, struct io_task *task);
void io_posix_lane_post_at(struct io_lane *lane, struct io_task *task, uint64_t due_ns);
bool io_posix_lane_cancel(struct io_lane *lane, struct io_task *task);
void io_posix_lane_close(struct io_lane *lane);
bool io_posix_lane_current(struct io_lane *lane);
bool io_posix_wait(struct io *io, bool (*done)(void *arg), void *arg, uint64_t deadline_ns);
void io_posix_notify(struct io *io);

#endif
