/*
 * Private to the directory source. directory.c: options, life, the order of things, reading into
 * the inlet. dir_file.c: opening and ending one file. dir_scan.c: which files there are.
 * dir_look.c: what a file is to us. dir_read.c: one file's records. dir_ledger.c: what was begun,
 * durably.
 */
#ifndef LEVEE_CONNECTORS_DIR_H
#define LEVEE_CONNECTORS_DIR_H

#include "connectors/dir_ledger.h"
#include "connectors/dir_read.h"

#define DIR_GROUP_MAX 512u /* files begun with one write of the ledger */

struct dir_waiting { /* a file that is not settled, or could not be opened */
    char *path;      /* NULL: waits no more */
    uint64_t hash;
    uint64_t since_ns, due_ns;
    struct io_stat st; /* as it was at since_ns */
};
struct dir_watched {
    int id; /* of the watch */
    char *path;
};
struct dir_source {
    /* options */
    char path[IO_PATH_MAX];
    char *pattern;    /* NULL: every name */
    uint32_t slashes; /* in it */
    bool recursive, keys, skip;
    struct dir_format format;
    uint32_t partitions, settle_ms, rescan_ms;

    levee_context *ctx;
    struct io *io;
    levee_inlet *inlet;
    struct io_lane *lane;
    struct io_task task, timer, watch_task;
    _Atomic bool posted;
    pthread_mutex_t mutex; /* held through every step, and by start and stop */

    /* guarded by mutex */
    bool stopped, open, timed, ended;
    struct dir_ledger ledger;
    uint64_t position; /* last record taken */

    size_t *group; /* files to read, in order */
    size_t group_count, group_at;
    struct dir_reader reader;
    bool reading, resuming, checked; /* checked: the record at `position` was found again */
    bool blocked;                    /* the inlet was full */
    size_t current;                  /* entry that is read */
    char current_path[IO_PATH_MAX];  /* below the directory */
    char full_path[IO_PATH_MAX];
    uint64_t last; /* of its records, appended */

    struct io_watch *watch;
    bool watch_refused; /* said already */
    struct dir_watched *watched;
    size_t watched_count, watched_cap;
    char **queue; /* directories to be looked through, below the directory; first in, first out */
    size_t queue_at, queue_count, queue_cap;
    struct io_list list; /* of the directory that is being looked through */
    char list_path[IO_PATH_MAX];
    size_t list_at;
    bool listing, scanning, scanned, scan_wanted;
    uint64_t scan_spent_ns, next_scan_ns;
    char **told; /* files that events have named */
    size_t told_at, told_count, told_cap;
    struct dir_waiting *waiting; /* in the order they were first seen */
    size_t waiting_count, waiting_cap;
    struct map waiting_map; /* hash of the path → index */

    struct {
        struct counter known, begun, read, skipped, changed, bytes, scans, lost, waiting,
            ledger_bytes, commits;
    } count;
};

/* ---- directory.c ---- */
#define DIR_PRODUCER "files"
void dir_give_up(struct dir_source *d, const struct levee_error *err, bool fatal);
/* What failed can be tried again as it is; damage, and a sync that failed, cannot. */
void dir_fail(struct dir_source *d, int code, struct levee_error *err);

/* ---- dir_file.c ---- */
/* false: it could not be, and nothing more can be done now, or the context stops. */
bool dir_file_open(struct dir_source *d, size_t index, struct levee_error *err);
/* The end was reached. false: as above. */
bool dir_file_finish(struct dir_source *d, struct levee_error *err);
/* A file that cannot be read as it was begun. true: go on with the next. */
bool dir_file_skip(struct dir_source *d, size_t index, struct levee_error *err);
void dir_file_close(struct dir_source *d);

/* ---- dir_scan.c ---- */
bool dir_pattern_ok(const char *pattern, bool recursive);
/* Below the directory: does the pattern name this file; can it name one in this directory? */
bool dir_wants_file(const struct dir_source *d, const char *path);
bool dir_wants_folder(const struct dir_source *d, const char *path);
void dir_scan_release(struct dir_source *d);
/* Events, then a slice of the look around that is under way. *ret_more: there is more to do. */
int dir_scan_step(struct dir_source *d, bool *ret_more, struct levee_error *err);
/* The name that the file with this inode has now; NOTFOUND. */
int dir_scan_find(struct dir_source *d, const struct dir_entry *e, char out[IO_PATH_MAX],
                  struct io_stat *ret_st, struct levee_error *err);
/* root + "/" + path; the root itself for an empty path. */
int dir_full_path(const struct dir_source *d, const char *path, char out[IO_PATH_MAX],
                  struct levee_error *err);
/* This file is to be looked at. */
int dir_scan_tell(struct dir_source *d, const char *path, struct levee_error *err);
/* When something is to be done next without being told. */
uint64_t dir_scan_due(const struct dir_source *d);

/* ---- dir_look.c ---- */
/* Looks at a file: known, to be begun (into the group), to be waited for, or changed. known: as it
 * is now; NULL: ask. */
int dir_look(struct dir_source *d, const char *path, const struct io_stat *known,
             struct levee_error *err);
/* Once the first records of a file are in the log the rest of it is needed, also after a power
 * loss: its bytes (synced when it is begun) and its name (synced here, before the ledger is) must
 * not be in memory only, whatever its writer did. What cannot be synced, such as a read-only file
 * system, is read as it is. */
int dir_group_durable(struct dir_source *d, struct levee_error *err);
/* When the first of those that wait is due; UINT64_MAX: none. */
uint64_t dir_look_due(const struct dir_source *d);
void dir_look_release(struct dir_source *d);
/* Looks again at those whose time has come. */
int dir_look_waiting(struct dir_source *d, struct levee_error *err);
bool dir_same_inode(const struct dir_entry *e, const struct io_stat *st);
static inline bool dir_group_full(const struct dir_source *d)
{
    return d->group_count == DIR_GROUP_MAX ||
           (d->group_count &&
            (d->ledger.entries[d->group[d->group_count - 1]].flags & DIR_OPEN) != 0);
}
bool dir_is_packed(const char *path); /* its name ends in .gz */

#endif
