/*
 * The helper lane: spare segments made ahead, and trimming. A full disk here is a soft state: the
 * current segment goes on, appends queue up when it is full, and the helper looks again until there
 * is room. Any other failure is final for the log (4d.13).
 */
#include "wal/wal_writer.h"

#define SPACE_RETRY_NS 200000000u

int wal_spare_make(struct wal *w, struct levee_error *err)
{
    struct wal_segment_header h = {
        .context = w->opt.context,
        .salt = w->io->ops->random(w->io) | 1,
        .size = w->opt.segment_bytes,
        .major = WAL_FORMAT_MAJOR,
        .minor = WAL_FORMAT_MINOR,
    };
    struct wal_spare *s = mem_zalloc(sizeof *s);

    if (!s) {
        return err_nomem(err, sizeof *s);
    }
    pthread_mutex_lock(&w->mutex);
    h.number = ++w->number_max;
    pthread_mutex_unlock(&w->mutex);
    int code = wal_segment_create(w->io, w->dir, &h, slice_of(NULL, 0), &s->file, err);
    if (code == LEVEE_OK) {
        code = wal_segment_publish(w->io, w->dir, h.number, false, err);
        if (code) {
            w->io->ops->close(s->file);
        }
    }
    if (code) {
        mem_free(s);
        return code;
    }
    s->number = h.number;
    s->salt = h.salt;
    pthread_mutex_lock(&w->mutex);
    fifo_push(&w->spares, &s->link);
    if (w->roll_waits && !w->stopping) {
        wal_kick(w); /* under the mutex: once stopping is set, the log lane may end */
    }
    w->roll_waits = false;
    pthread_mutex_unlock(&w->mutex);
    return LEVEE_OK;
}

static void tell_space(struct wal *w, bool short_of_space)
{
    pthread_mutex_lock(&w->mutex);
    bool changed = w->short_of_space != short_of_space;
    w->short_of_space = short_of_space;
    pthread_mutex_unlock(&w->mutex);
    if (changed && w->opt.space) {
        w->opt.space(w->opt.failed_arg, short_of_space);
    }
}

static void run_make(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, make_task);
    struct levee_error err = {0};

    pthread_mutex_lock(&w->mutex);
    bool more = w->spares.count < w->opt.spares && !w->failed && !w->stopping;
    w->making = more;
    pthread_mutex_unlock(&w->mutex);
    if (!more) {
        return;
    }
    int code = wal_spare_make(w, &err);
    if (code == LEVEE_OK) {
        tell_space(w, false);
        w->io->ops->lane_post(w->helper, &w->make_task);
    } else if (levee_error_class(code) == LEVEE_CLASS_RETRY) {
        tell_space(w, true);
        w->io->ops->lane_post_at(w->helper, &w->make_task,
                                 w->io->ops->now_ns(w->io) + SPACE_RETRY_NS);
    } else {
        wal_fail(w, &err);
    }
}

void wal_spares_make(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    bool post = !w->making && w->spares.count < w->opt.spares && !w->failed && !w->stopping;
    w->making = w->making || post;
    pthread_mutex_unlock(&w->mutex);
    if (post) {
        w->io->ops->lane_post(w->helper, &w->make_task);
    }
}

int wal_roll(struct wal *w, struct levee_error *err)
{
    pthread_mutex_lock(&w->mutex);
    struct link *l = fifo_pop(&w->spares);
    bool room = l && mem_grow((void **)&w->segments, &w->segment_cap, w->segment_count + 1,
                              sizeof *w->segments);
    if (!l) {
        w->roll_waits = true;
    }
    pthread_mutex_unlock(&w->mutex);
    if (!l) {
        wal_spares_make(w);
        return LEVEE_EFULL;
    }
    struct wal_spare *s = CONTAINER_OF(l, struct wal_spare, link);
    if (!room) {
        w->io->ops->close(s->file);
        mem_free(s);
        return err_nomem(err, sizeof *w->segments);
    }
    w->start = (struct wal_start){
        .epoch = w->epoch,
        .first_lsn = w->taken_lsn + 1,
        .predecessor = w->number,
        .predecessor_end = w->offset,
        .predecessor_last = w->taken_lsn,
    };
    w->io->ops->close(w->file);
    w->file = s->file;
    w->number = s->number;
    w->salt = w->chain = s->salt;
    w->size = w->opt.segment_bytes;
    w->offset = WAL_HEADER_BYTES;
    w->start_pending = true;
    pthread_mutex_lock(&w->mutex);
    w->segments[w->segment_count++] =
        (struct wal_extent){s->number, w->taken_lsn + 1, w->taken_lsn, w->size, false};
    pthread_mutex_unlock(&w->mutex);
    mem_free(s);
    counter_add(&w->stat.rolls, 1);
    crash_at(w->io, CP_WAL_AFTER_ROLL);
    wal_spares_make(w);
    return LEVEE_OK;
}

/* ---- trimming ---- */

/* The oldest segment, if all of it is below the trim LSN and the next one has a durable group:
 * without any the log would not know its LSNs after a power loss. */
static bool oldest_to_trim(struct wal *w, uint64_t *ret_number)
{
    pthread_mutex_lock(&w->mutex);
    bool yes = w->segment_count > 1 && w->segments[1].begun &&
               w->segments[0].last_lsn < w->trim_lsn && !w->failed;
    if (yes) {
        *ret_number = w->segments[0].number;
    }
    pthread_mutex_unlock(&w->mutex);
    return yes;
}

static void run_trim(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, trim_task);
    struct levee_error err = {0};
    uint64_t number;
    int code = LEVEE_OK;
    bool any = false;

    pthread_mutex_lock(&w->mutex);
    w->trim_posted = false;
    pthread_mutex_unlock(&w->mutex);
    while (code == LEVEE_OK && oldest_to_trim(w, &number)) {
        char path[IO_PATH_MAX], name[WAL_NAME_BYTES];
        crash_at(w->io, CP_WAL_BEFORE_TRIM);
        wal_segment_name(name, number);
        code = io_path(path, w->dir, name, &err);
        if (code == LEVEE_OK) {
            code = w->io->ops->unlink(w->io, path, &err);
        }
        if (code == LEVEE_OK) {
            any = true;
            pthread_mutex_lock(&w->mutex);
            memmove(w->segments, w->segments + 1, --w->segment_count * sizeof *w->segments);
            pthread_mutex_unlock(&w->mutex);
            crash_at(w->io, CP_WAL_AFTER_TRIM_ONE);
        }
    }
    if (any && code == LEVEE_OK) {
        code = w->io->ops->sync_dir(w->io, w->dir, &err);
        crash_at(w->io, CP_WAL_AFTER_TRIM);
    }
    if (code) {
        wal_fail(w, &err);
    }
}

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

uint64_t wal_bytes(const struct wal *w)
{
    struct wal *m = (struct wal *)(uintptr_t)w;
    uint64_t bytes = 0;

    pthread_mutex_lock(&m->mutex);
    for (size_t i = 0; i < m->segment_count; i++) {
        bytes += m->segments[i].size;
    }
    bytes += m->spares.count * m->opt.segment_bytes;
    pthread_mutex_unlock(&m->mutex);
    return bytes;
}

/* ---- life ---- */

void wal_spares_init(struct wal *w)
{
    w->make_task.run = run_make;
    w->trim_task.run = run_trim;
    fifo_init(&w->spares);
}

void wal_spares_release(struct wal *w)
{
    for (struct link *l; (l = fifo_pop(&w->spares)) != NULL;) {
        struct wal_spare *s = CONTAINER_OF(l, struct wal_spare, link);
        w->io->ops->close(s->file);
        mem_free(s);
    }
}
