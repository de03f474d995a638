/* Private to wal/: the writer's inside, shared by the log lane (wal_writer.c) and the helper lane
 * (wal_spares.c). */
#ifndef LEVEE_WAL_WRITER_H
#define LEVEE_WAL_WRITER_H

#include <pthread.h>
#include <stdio.h>

#include "wal/wal_impl.h"

struct wal_extent { /* a segment in use */
    uint64_t number, first_lsn, last_lsn, size;
    bool begun; /* its first group is durable */
    bool whole; /* of full size, made in this life: good for another one */
};

struct wal_spare {
    struct link link;
    struct io_file *file;
    uint64_t number, salt, bytes;
};

struct wal_retired { /* a trimmed segment, nameless and waiting for its next life */
    struct link link;
    uint64_t number, bytes;
};

struct wal {
    struct io *io;
    struct wal_options opt;
    char dir[IO_PATH_MAX];
    struct io_lane *log, *helper;

    pthread_mutex_t mutex; /* guards from here … */
    struct fifo queue;     /* frames with an LSN, not yet written */
    uint64_t next_lsn;
    bool failed, closing, stopping;
    struct levee_error error;
    struct fifo spares; /* ready ones */
    bool roll_waits;    /* the log lane wants one */
    bool making;        /* the helper is at it */
    bool short_of_space;
    struct wal_extent *segments; /* oldest first; the last is being written */
    size_t segment_count, segment_cap;
    uint64_t number_max;
    uint64_t trim_lsn;
    bool trim_posted, give_back_posted;
    struct fifo retired;    /* oldest first; their names are durably gone */
    uint64_t rolled, cycle; /* segments begun since the last trim; how many it mostly is */
    /* … to here */

    /* the log lane's */
    struct io_file *file;
    uint64_t number, salt, size, offset, chain, epoch;
    uint64_t taken_lsn; /* last LSN in a written group */
    struct wal_start start;
    bool start_pending; /* the next group begins a segment */
    uint64_t last_group_ns;
    bool idle_armed;

    _Atomic bool flush_posted;
    _Atomic uint64_t durable_lsn, witnessed_lsn;
    struct io_task flush_task, idle_task, close_task, make_task, trim_task, give_back_task;
    struct {
        struct counter frames, groups, syncs, idle_seals, rolls, payload_bytes, written_bytes,
            recycled;
    } stat;
    uint8_t zeros[2 * WAL_GROUP_ALIGN];
};

void wal_fail(struct wal *w, const struct levee_error *why);
/* Takes a spare as the segment to write; FULL: none is ready, the helper asks for a flush when one
 * is. Log lane. */
int wal_roll(struct wal *w, struct levee_error *err);
/* Makes one spare on the lane that calls; helper, and the log lane when it ends. */
int wal_spare_make(struct wal *w, struct levee_error *err);
void wal_spares_init(struct wal *w);
void wal_spares_make(struct wal *w); /* any thread: asks the helper to fill up */
void wal_spares_release(struct wal *w);

/* wal_trim.c */
void wal_trim_init(struct wal *w);
struct wal_retired *wal_retired_take(struct wal *w); /* NULL: there is none */
uint64_t wal_retired_bytes(const struct wal *w);     /* under the mutex */
void wal_retired_release(struct wal *w);

#endif
