/*
 * Trimming, on the helper lane, and what becomes of a trimmed segment.
 *
 * The oldest segments go when all of their LSNs are below the limit. One that was made in this life
 * at full size is kept for a second life: it loses its name at once, so it is no part of the log
 * any more, and wal_spare_make takes it before it fills a new file with zeros.
 *
 *   P1  A file is written over only after a sync of the directory has taken its name away, and only
 *       if it had no other name: somebody's hard link to the log is not ours to change.
 *   P2  As many are kept as the log used between this trim and the one before (as many as there are
 *       spares at least; falling by an eighth at a time), so that a log trimmed at every checkpoint
 *       writes zeros only while it grows. With what it keeps, it is never larger than it was right
 *       before the trim.
 *   P3  They are room that nobody needs: not kept when less than as much is free beside them, and
 *       all given back when a checkpoint finds the disk full (wal_give_back).
 *
 * Nobody reads below the trim limit (the state that needs no frame below it is durable), so nobody
 * is there to find recycled bytes; who does it all the same is told that the frame was trimmed.
 */
#include "wal/wal_writer.h"

/* The oldest segment, if all of it is below the trim LSN and the next one has a durable group:
 * without any the log would not know its LSNs after a power loss. */
static bool oldest_to_trim(struct wal *w, struct wal_extent *ret)
{
    pthread_mutex_lock(&w->mutex);
    bool yes = w->segment_count > 1 && w->segments[1].begun &&
               w->segments[0].last_lsn < w->trim_lsn && !w->failed;
    if (yes) {
        *ret = w->segments[0];
    }
    pthread_mutex_unlock(&w->mutex);
    return yes;
}

static void forget_oldest(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    memmove(w->segments, w->segments + 1, --w->segment_count * sizeof *w->segments);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- what is kept ---- */

static uint64_t bytes_of(const struct fifo *retired)
{
    uint64_t bytes = 0;

    for (const struct link *l = retired->head; l; l = l->next) {
        bytes += CONTAINER_OF(l, const struct wal_retired, link)->bytes;
    }
    return bytes;
}

uint64_t wal_retired_bytes(const struct wal *w)
{
    return bytes_of(&w->retired);
}

struct wal_retired *wal_retired_take(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    struct link *l = fifo_pop(&w->retired);
    pthread_mutex_unlock(&w->mutex);
    return l ? CONTAINER_OF(l, struct wal_retired, link) : NULL;
}

void wal_retired_release(struct wal *w)
{
    for (struct wal_retired *r; (r = wal_retired_take(w)) != NULL;) {
        mem_free(r);
    }
}

/* How many to keep; called by a trim that has something to remove. */
static size_t how_many(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    uint64_t fallen = w->cycle - (w->cycle + 7) / 8;
    w->cycle = w->rolled > fallen ? w->rolled : fallen;
    w->rolled = 0;
    size_t n = w->cycle > w->opt.spares ? (size_t)w->cycle : w->opt.spares;
    pthread_mutex_unlock(&w->mutex);
    return n;
}

static bool worth_keeping(struct wal *w, const struct wal_extent *x, const char *path,
                          const struct fifo *retired)
{
    struct io_stat st = {0};
    uint64_t space = 0, kept;

    pthread_mutex_lock(&w->mutex);
    kept = bytes_of(&w->retired) + bytes_of(retired);
    pthread_mutex_unlock(&w->mutex);
    return x->whole && w->io->ops->stat(w->io, path, &st, NULL) == LEVEE_OK && st.links == 1 &&
           w->io->ops->free_space(w->io, w->dir, &space, NULL) == LEVEE_OK &&
           space >= kept + x->size;
}

/* Takes one segment out of the log: into *retired, or off the disk. */
static int put_away(struct wal *w, const struct wal_extent *x, size_t room, struct fifo *retired,
                    struct levee_error *err)
{
    char path[IO_PATH_MAX], name[WAL_NAME_BYTES];
    struct wal_retired *r = NULL;

    wal_segment_name(name, x->number);
    int code = io_path(path, w->dir, name, err);
    if (code == LEVEE_OK && retired->count < room && worth_keeping(w, x, path, retired)) {
        r = mem_zalloc(sizeof *r); /* without memory it is not kept */
    }
    if (code || !r) {
        return code ? code : w->io->ops->unlink(w->io, path, err);
    }
    code = wal_segment_retire(w->io, w->dir, x->number, err);
    if (code) {
        mem_free(r);
        return code;
    }
    *r = (struct wal_retired){.number = x->number, .bytes = x->size};
    fifo_push(retired, &r->link);
    return LEVEE_OK;
}

/* Off the disk with the oldest ones, until no more than `keep` are left. */
static int drop_retired(struct wal *w, size_t keep, struct levee_error *err)
{
    int code = LEVEE_OK;

    while (code == LEVEE_OK) {
        pthread_mutex_lock(&w->mutex);
        bool more = w->retired.count > keep;
        pthread_mutex_unlock(&w->mutex);
        struct wal_retired *r = more ? wal_retired_take(w) : NULL;
        if (!r) {
            break;
        }
        code = wal_segment_drop(w->io, w->dir, r->number, err);
        mem_free(r);
    }
    return code;
}

/* ---- the helper's tasks ---- */

static int trim(struct wal *w, struct fifo *retired, struct levee_error *err)
{
    struct wal_extent x;
    size_t keep = 0;
    int code = LEVEE_OK;
    bool any = false;

    while (code == LEVEE_OK && oldest_to_trim(w, &x)) {
        if (!any) {
            keep = how_many(w);
        }
        crash_at(w->io, CP_WAL_BEFORE_TRIM);
        code = put_away(w, &x, keep, retired, err);
        if (code == LEVEE_OK) {
            any = true;
            forget_oldest(w);
            crash_at(w->io, CP_WAL_AFTER_TRIM_ONE);
        }
    }
    if (!any || code) {
        return code;
    }
    code = w->io->ops->sync_dir(w->io, w->dir, err);
    crash_at(w->io, CP_WAL_AFTER_TRIM);
    if (code == LEVEE_OK) {
        pthread_mutex_lock(&w->mutex);
        fifo_take(&w->retired, retired); /* P1: from here on they may be written over */
        pthread_mutex_unlock(&w->mutex);
        code = drop_retired(w, keep, err);
    }
    return code;
}

static void run_trim(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, trim_task);
    struct levee_error err = {0};
    struct fifo retired;

    fifo_init(&retired);
    pthread_mutex_lock(&w->mutex);
    w->trim_posted = false;
    pthread_mutex_unlock(&w->mutex);
    int code = trim(w, &retired, &err);
    for (struct link *l; (l = fifo_pop(&retired)) != NULL;) {
        mem_free(CONTAINER_OF(l, struct wal_retired, link));
    }
    if (code) {
        wal_fail(w, &err);
    }
}

static void run_give_back(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, give_back_task);
    struct levee_error err = {0};

    pthread_mutex_lock(&w->mutex);
    w->give_back_posted = false;
    pthread_mutex_unlock(&w->mutex);
    if (drop_retired(w, 0, &err)) {
        wal_fail(w, &err);
    }
}

/* ---- the public side ---- */

void wal_trim(struct wal *w, uint64_t lsn)
{
    pthread_mutex_lock(&w->mutex);
    if (lsn > w->trim_lsn) {
        w->trim_lsn = lsn;
    }
    bool post = !w->trim_posted;
    w->trim_posted = true;
    pthread_mutex_unlock(&w->mutex);
    if (post) {
        w->io->ops->lane_post(w->helper, &w->trim_task);
    }
}

void wal_give_back(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    bool post = !w->give_back_posted && w->retired.count > 0;
    w->give_back_posted = w->give_back_posted || post;
    pthread_mutex_unlock(&w->mutex);
    if (post) {
        w->io->ops->lane_post(w->helper, &w->give_back_task);
    }
}

void wal_trim_init(struct wal *w)
{
    w->trim_task.run = run_trim;
    w->give_back_task.run = run_give_back;
    fifo_init(&w->retired);
}
