/*
 * Spare segments, made ahead on the helper lane, out of trimmed ones (wal_trim.c) while there are
 * any, else full of zeros. A full disk here is a soft state: the current segment goes on, appends
 * queue up when it is full, and the helper looks again until there is room. Any other failure is
 * final for the log (4d.13).
 */
#include "wal/wal_writer.h"

#define SPACE_RETRY_NS 200000000u

static int make_of_zeros(struct wal *w, const struct wal_segment_header *h, struct io_file **ret,
                         struct levee_error *err)
{
    int code = wal_segment_create(w->io, w->dir, h, slice_of(NULL, 0), ret, err);

    if (code == LEVEE_OK) {
        code = wal_segment_publish(w->io, w->dir, h->number, false, err);
        if (code) {
            w->io->ops->close(*ret);
        }
    }
    return code;
}

static int make_of_retired(struct wal *w, struct wal_segment_header *h, struct io_file **ret,
                           struct levee_error *err)
{
    struct wal_retired *r = wal_retired_take(w);

    if (!r) {
        return LEVEE_ENOTFOUND;
    }
    h->former = r->number;
    h->incompatible = WAL_RECYCLED;
    mem_free(r);
    int code = wal_segment_recycle(w->io, w->dir, h, ret, err);
    if (code == LEVEE_OK) {
        counter_add(&w->stat.recycled, 1);
    } else {
        h->former = 0;
        h->incompatible = 0;
    }
    return code;
}

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
    int code = make_of_retired(w, &h, &s->file, err);
    if (code == LEVEE_ENOTFOUND) {
        code = make_of_zeros(w, &h, &s->file, err);
    }
    if (code) {
        mem_free(s);
        return code;
    }
    s->number = h.number;
    s->salt = h.salt;
    s->bytes = h.size + (h.former ? wal_imprint_bytes(h.size) : 0);
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

/* The next spare, under the mutex. Numbers are the order of the log: at a close both lanes may have
 * made one, and the later number been ready first; the earlier one is then left to the next start.
 */
static struct link *next_spare(struct wal *w)
{
    struct link *l;

    while ((l = fifo_pop(&w->spares)) != NULL) {
        struct wal_spare *s = CONTAINER_OF(l, struct wal_spare, link);
        if (s->number > w->number) {
            break;
        }
        w->io->ops->close(s->file);
        mem_free(s);
    }
    return l;
}

int wal_roll(struct wal *w, struct levee_error *err)
{
    pthread_mutex_lock(&w->mutex);
    struct link *l = next_spare(w);
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
        (struct wal_extent){s->number, w->taken_lsn + 1, w->taken_lsn, s->bytes, false, true};
    w->rolled++;
    pthread_mutex_unlock(&w->mutex);
    mem_free(s);
    counter_add(&w->stat.rolls, 1);
    crash_at(w->io, CP_WAL_AFTER_ROLL);
    wal_spares_make(w);
    return LEVEE_OK;
}

uint64_t wal_bytes(const struct wal *w)
{
    struct wal *m = (struct wal *)(uintptr_t)w;
    uint64_t bytes = 0;

    pthread_mutex_lock(&m->mutex);
    for (size_t i = 0; i < m->segment_count; i++) {
        bytes += m->segments[i].size;
    }
    for (const struct link *l = m->spares.head; l; l = l->next) {
        bytes += CONTAINER_OF(l, const struct wal_spare, link)->bytes;
    }
    bytes += wal_retired_bytes(m);
    pthread_mutex_unlock(&m->mutex);
    return bytes;
}

/* ---- life ---- */

void wal_spares_init(struct wal *w)
{
    w->make_task.run = run_make;
    fifo_init(&w->spares);
    wal_trim_init(w);
}

void wal_spares_release(struct wal *w)
{
    for (struct link *l; (l = fifo_pop(&w->spares)) != NULL;) {
        struct wal_spare *s = CONTAINER_OF(l, struct wal_spare, link);
        w->io->ops->close(s->file);
        mem_free(s);
    }
    wal_retired_release(w);
}
