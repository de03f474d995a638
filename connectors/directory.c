/*
 * The directory source: files that appear in a directory, each once, its records exactly once.
 *
 * Every file that is begun gets a range of sequence numbers, as long as the file, behind that of
 * the file before: a record's number is its file's base + 1 + its offset. One producer, whose
 * numbers may have holes, carries all of them; so one position in log and checkpoint says which
 * file was being read, and where, however many files there were. The ledger (dir_ledger.c) keeps
 * the ranges.
 *
 *   look ──▶ group of files begun in the ledger, one sync ──▶ read one after the other ──▶ look
 *                                                             (ends are written with the next
 * group)
 *
 * D1  a file's entry is durable before its first record is appended, so whatever the log holds has
 *     an entry. D2  after a start every file whose last number lies beyond the position is read
 * again, in order, and what lies at or below the position is passed over; the record at the
 * position must be there with the hash that the log remembers. D3  a file that differs from its
 * entry, or is gone, is never jumped over silently: FILE_CHANGED or FILE_MISSING stops the context,
 * or is reported and remembered where `on_trouble` says so.
 *
 * All of it runs on a lane of its own, a bounded piece of work at a time, so it runs on the
 * simulated machine as well. The watch's thread only posts.
 */
#include "connectors/dir_internal.h"

#include <inttypes.h>

#define APPEND_MAX   256u        /* records in one append … */
#define APPEND_BYTES (64u << 10) /* … and their bytes, but for one that is longer */
#define NS_PER_MS    1000000u
#define RECORD_MAX   (1u << 20)
#define WHOLE_MAX    (16u << 20)

/* ---- being told to work ---- */

static void wake(struct dir_source *d)
{
    if (!atomic_exchange(&d->posted, true)) {
        d->io->ops->lane_post(d->lane, &d->task);
    }
}

void dir_give_up(struct dir_source *d, const struct levee_error *err, bool fatal)
{
    d->stopped = true; /* until start is called again */
    levee_inlet_fail(d->inlet, err, fatal);
}

/* What failed can be tried again as it is; damage, and a sync that failed, cannot. */
void dir_fail(struct dir_source *d, int code, struct levee_error *err)
{
    if (err->code == 0) {
        (void)err_set(err, code, "the directory source failed");
    }
    dir_give_up(d, err, levee_error_class(code) != LEVEE_CLASS_RETRY && code != LEVEE_ENOTFOUND);
}

/* ---- records into the inlet ---- */

struct harvest {
    struct levee_record records[APPEND_MAX];
    uint64_t sequences[APPEND_MAX];
    size_t count, bytes;
    uint64_t first_offset;
};

/* One that was taken in an earlier life. false: the file is not what it was. */
static bool pass_over(struct dir_source *d, const struct levee_record *r, uint64_t seq,
                      struct levee_error *err)
{
    if (seq < d->position) {
        return true;
    }
    if (seq == d->position) {
        uint64_t known = levee_inlet_last_hash(d->inlet, levee_text(DIR_PRODUCER));
        d->checked = known == 0 || levee_record_hash(r) == known;
    }
    if (!d->checked) {
        const struct dir_entry *e = &d->ledger.entries[d->current];
        (void)err_set(err, LEVEE_EFILE_CHANGED,
                      "a file does not hold the record that was read last from it");
        err_where(err, "%s, offset %" PRIu64, d->full_path, d->position - e->base - 1);
        return false;
    }
    return true;
}

/* As many records as one append takes. LEVEE_OK, or what is wrong with the file behind them. */
static int gather(struct dir_source *d, struct harvest *h, struct levee_error *err)
{
    const struct dir_entry *e = &d->ledger.entries[d->current];
    bool keys = d->keys || d->format.format == LEVEE_FILE_WHOLE, more = true;
    int code = LEVEE_OK;

    h->count = h->bytes = 0;
    while (code == LEVEE_OK && h->count < APPEND_MAX && h->bytes < APPEND_BYTES) {
        struct levee_record r = {.key = keys ? levee_text(d->current_path)
                                             : (struct levee_slice){NULL, 0}};
        uint64_t offset = 0;
        code = dir_reader_next(&d->reader, &r.value, &offset, &more, err);
        if (code || !more) {
            break;
        }
        uint64_t seq = e->base + 1 + offset;
        if (d->resuming && !d->checked && !pass_over(d, &r, seq, err)) {
            return LEVEE_EFILE_CHANGED;
        }
        if (seq <= d->position) {
            d->last = seq > d->last ? seq : d->last;
            continue;
        }
        if (h->count == 0) {
            h->first_offset = offset;
        }
        h->sequences[h->count] = seq;
        h->records[h->count++] = r;
        h->bytes += r.value.len;
    }
    return code;
}

/* false: the inlet does not take them now (or any more). */
static bool append(struct dir_source *d, const struct harvest *h, int *ret_code,
                   struct levee_error *err)
{
    uint64_t ticket;
    struct levee_append a = {.producer = levee_text(DIR_PRODUCER),
                             .first_sequence = h->sequences[0],
                             .sequences = h->sequences,
                             .partition = (uint32_t)(d->current % d->partitions),
                             .records = h->records,
                             .count = h->count};
    int code = levee_inlet_append(d->inlet, &a, &ticket, err);

    *ret_code = code;
    if (code == LEVEE_EFULL) { /* the same records again, when there is room */
        dir_reader_back(&d->reader, h->first_offset);
        d->blocked = true;
    }
    if (code == LEVEE_OK) {
        d->last = d->position = h->sequences[h->count - 1];
        d->resuming = false;
    }
    return code == LEVEE_OK;
}

/* A bounded piece of the file that is open. false: nothing more can be done now. */
static bool read_some(struct dir_source *d, struct levee_error *err)
{
    struct harvest h;
    uint64_t raw = d->reader.raw;
    int refused = LEVEE_OK, code = gather(d, &h, err);

    if (code == LEVEE_OK && h.count == 0) {
        if (d->reader.ended) {
            return dir_file_finish(d, err);
        }
        code = dir_reader_fill(&d->reader, err);
        counter_add(&d->count.bytes, d->reader.raw - raw);
        if (code == LEVEE_OK) {
            return true;
        }
    }
    struct levee_error why = {0};
    if (h.count && !append(d, &h, &refused, &why)) {
        if (refused == LEVEE_EFULL || refused == LEVEE_ESTOPPED) {
            return false;
        }
        err_copy(err, &why);
        code = refused;
        if (code == LEVEE_ERECORD_TOO_LONG) {
            err_where(err, "%s, offset %" PRIu64 " or behind", d->full_path, h.first_offset);
        }
    }
    if (code == LEVEE_OK) {
        return true;
    }
    if (code == LEVEE_EFILE_CHANGED || code == LEVEE_ERECORD_DAMAGED ||
        code == LEVEE_ERECORD_TOO_LONG) {
        return dir_file_skip(d, d->current, err);
    }
    dir_fail(d, code, err);
    return false;
}

/* ---- the order of things ---- */

/* Files that are not wholly in the log, in order (D2). */
static int collect_unfinished(struct dir_source *d, struct levee_error *err)
{
    size_t n = 0;

    d->group_count = d->group_at = 0;
    for (size_t i = 0; i < d->ledger.count; i++) {
        const struct dir_entry *e = &d->ledger.entries[i];
        bool done = (e->flags & DIR_VOID) || ((e->flags & DIR_ENDED) && e->last <= d->position);
        n += !done;
    }
    if (n > DIR_GROUP_MAX) { /* ends that the log has lost: more than one group's files */
        size_t *more = mem_alloc(n * sizeof *more);
        if (!more) {
            return err_nomem(err, n * sizeof *more);
        }
        mem_free(d->group);
        d->group = more;
    }
    for (size_t i = 0; i < d->ledger.count; i++) {
        const struct dir_entry *e = &d->ledger.entries[i];
        if (!(e->flags & DIR_VOID) && (!(e->flags & DIR_ENDED) || e->last > d->position)) {
            d->group[d->group_count++] = i;
        }
    }
    return LEVEE_OK;
}

static int open_all(struct dir_source *d, struct levee_error *err)
{
    char context[UUID_TEXT];
    struct levee_error why = {0};

    d->position = levee_inlet_position(d->inlet, levee_text(DIR_PRODUCER));
    (void)uuid_format(&d->ctx->dir.context, context);
    int code = dir_ledger_open(&d->ledger, d->io, d->ctx->dir.path, levee_inlet_uid(d->inlet),
                               context, d->position, err);
    if (code) {
        return code;
    }
    d->open = true;
    if (!d->io->simulated &&
        io_watch_open(d->io, d->lane, &d->watch_task, &d->watch, &why) != LEVEE_OK) {
        levee_inlet_report(d->inlet, &why);
    }
    d->scan_wanted = true;
    d->next_scan_ns = UINT64_MAX;
    return collect_unfinished(d, err);
}

static void set_timer(struct dir_source *d, uint64_t due)
{
    if (d->timed) {
        (void)d->io->ops->lane_cancel(d->lane, &d->timer);
    }
    d->timed = due != UINT64_MAX;
    if (d->timed) {
        d->io->ops->lane_post_at(d->lane, &d->timer, due);
    }
}

static void show_ledger(struct dir_source *d)
{
    atomic_store(&d->count.known.v, d->ledger.count);
    atomic_store(&d->count.ledger_bytes.v, d->ledger.tail_end + d->ledger.old_bytes);
    atomic_store(&d->count.commits.v, d->ledger.frames);
}

/* Between two groups: looks for files, and writes down what ended and what begins. */
static bool next_group(struct dir_source *d, struct levee_error *err)
{
    bool more = true;

    d->group_count = d->group_at = 0;
    int code = dir_scan_step(d, &more, err);
    bool idle = code == LEVEE_OK && !more && d->group_count == 0;
    if (code == LEVEE_OK) {
        code = dir_group_durable(d, err);
    }
    /* Ends wait for company while a look around is under way. */
    if (code == LEVEE_OK && (d->group_count || idle || d->ledger.frame.len > 65536)) {
        code = dir_ledger_commit(&d->ledger, err);
    }
    if (code == LEVEE_OK && idle && dir_ledger_wants_fold(&d->ledger)) {
        code = dir_ledger_fold(&d->ledger, d->position, err);
    }
    show_ledger(d);
    if (code) {
        dir_fail(d, code, err);
        return false;
    }
    if (idle && d->scanned && d->waiting_count == 0 && levee_inlet_stop_at_end(d->inlet) &&
        !d->ended) {
        d->ended = true;
        levee_inlet_end(d->inlet);
    }
    if (idle) {
        set_timer(d, dir_scan_due(d));
    }
    return !idle;
}

/* One piece of work; true: there is more. */
static bool step(struct dir_source *d)
{
    struct levee_error err = {0};

    if (!d->open) {
        int code = open_all(d, &err);
        if (code) {
            dir_fail(d, code, &err);
            return false;
        }
    }
    if (d->reading) {
        return read_some(d, &err);
    }
    if (d->group_at < d->group_count) {
        return dir_file_open(d, d->group[d->group_at++], &err);
    }
    return next_group(d, &err);
}

static void run(struct dir_source *d)
{
    bool more = false;

    pthread_mutex_lock(&d->mutex);
    d->blocked = false;
    if (!d->stopped) {
        more = step(d);
    }
    pthread_mutex_unlock(&d->mutex);
    if (more) {
        wake(d);
    }
}

static void run_task(struct io_task *t)
{
    struct dir_source *d = CONTAINER_OF(t, struct dir_source, task);

    atomic_store(&d->posted, false);
    run(d);
}

static void run_timer(struct io_task *t)
{
    struct dir_source *d = CONTAINER_OF(t, struct dir_source, timer);

    pthread_mutex_lock(&d->mutex);
    d->timed = false;
    pthread_mutex_unlock(&d->mutex);
    wake(d);
}

static void run_watch(struct io_task *t)
{
    wake(CONTAINER_OF(t, struct dir_source, watch_task));
}

/* ---- the receiver ---- */

static void close_all(struct dir_source *d)
{
    dir_file_close(d);
    dir_scan_release(d);
    dir_look_release(d);
    if (d->open) {
        dir_ledger_close(&d->ledger);
        d->open = false;
    }
}

static int dir_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct dir_source *d = self;
    int code = d->lane ? LEVEE_OK : d->io->ops->lane_open(d->io, "directory", &d->lane, err);

    if (code == LEVEE_OK) {
        pthread_mutex_lock(&d->mutex);
        d->inlet = inlet;
        d->stopped = false;
        pthread_mutex_unlock(&d->mutex);
        wake(d);
    }
    return code;
}

static void dir_stop(void *self)
{
    struct dir_source *d = self;

    pthread_mutex_lock(&d->mutex);
    d->stopped = true;
    close_all(d);
    pthread_mutex_unlock(&d->mutex);
}

static void dir_ready(void *self)
{
    wake(self);
}

static void dir_destroy(void *self)
{
    struct dir_source *d = self;

    if (d->lane) {
        d->io->ops->lane_close(d->lane);
    }
    close_all(d);
    (void)pthread_mutex_destroy(&d->mutex);
    mem_free(d->group);
    mem_free(d->pattern);
    mem_free(d);
}

static const struct levee_receiver_ops dir_ops = {
    .version = 1, .start = dir_start, .stop = dir_stop, .ready = dir_ready, .destroy = dir_destroy};

/* ---- options ---- */

static const char *wrong(const struct levee_directory_options *o)
{
    if (!o || !o->path || !o->path[0] || strlen(o->path) >= IO_PATH_MAX - 2) {
        return "its path is missing or too long";
    }
    if (o->pattern && !dir_pattern_ok(o->pattern, o->recursive)) {
        return "a pattern is of names, or, without recursive, of paths below the directory";
    }
    if ((unsigned)o->format > LEVEE_FILE_LENGTH || (unsigned)o->on_trouble > LEVEE_FILE_SKIP) {
        return "format or on_trouble is out of range";
    }
    if ((o->format == LEVEE_FILE_FIXED) != (o->record_bytes != 0)) {
        return "record_bytes belongs to LEVEE_FILE_FIXED";
    }
    return NULL;
}

static void fill_in(struct dir_source *d, const struct levee_directory_options *o)
{
    uint32_t longest = o->format == LEVEE_FILE_WHOLE ? WHOLE_MAX : RECORD_MAX;

    (void)snprintf(d->path, sizeof d->path, "%s", o->path);
    for (const char *c = o->pattern ? o->pattern : ""; *c; c++) {
        d->slashes += *c == '/';
    }
    d->recursive = o->recursive;
    d->keys = o->keys;
    d->skip = o->on_trouble == LEVEE_FILE_SKIP;
    d->format = (struct dir_format){.format = o->format,
                                    .record_bytes = o->record_bytes,
                                    .record_max = o->record_max ? o->record_max : longest};
    d->partitions = o->partitions ? o->partitions : 1;
    d->settle_ms = o->settle_ms ? o->settle_ms : 1000;
    d->rescan_ms = o->rescan_ms ? o->rescan_ms : 60000;
    d->stopped = true;
    d->task.run = run_task;
    d->timer.run = run_timer;
    d->watch_task.run = run_watch;
}

levee_stream *levee_directory_source_at(levee_context *ctx, const char *uid,
                                        const struct levee_directory_options *o, const char *file,
                                        int line)
{
    struct rt_graph *g = rt_context_graph(ctx);
    const char *why = wrong(o);

    if (!g) {
        return NULL;
    }
    if (why) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID, "directory source %s: %s",
                             uid ? uid : "", why);
    }
    struct dir_source *d = mem_zalloc(sizeof *d);
    if (!d || pthread_mutex_init(&d->mutex, NULL) != 0) {
        mem_free(d);
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "directory source %s", uid ? uid : "");
    }
    fill_in(d, o);
    d->ctx = ctx;
    d->io = rt_context_io(ctx);
    d->group = mem_alloc(DIR_GROUP_MAX * sizeof *d->group);
    d->pattern = o->pattern ? mem_strdup(o->pattern) : NULL;
    struct levee_receiver_options r = {.partitions = d->partitions,
                                       .reliable = true,
                                       .replayable = true,
                                       .holes = true,
                                       .identity = true};
    levee_stream *s =
        !d->group || (o->pattern && !d->pattern)
            ? rt_graph_fail(g, file, line, LEVEE_ENOMEM, "directory source %s", uid ? uid : "")
            : levee_receiver_source_at(ctx, uid, &r, &dir_ops, d, file, line);
    if (!s) {
        dir_destroy(d);
    }
    return s;
}

int levee_directory_source_status(levee_stream *source, struct levee_directory_status *ret)
{
    struct levee_inlet *in = rt_stream_inlet(source);

    if (!in || in->ops != &dir_ops || !ret) {
        return LEVEE_EINVALID;
    }
    const struct dir_source *d = in->self;
    *ret = (struct levee_directory_status){.known = counter_get(&d->count.known),
                                           .begun = counter_get(&d->count.begun),
                                           .read = counter_get(&d->count.read),
                                           .waiting = counter_get(&d->count.waiting),
                                           .skipped = counter_get(&d->count.skipped),
                                           .changed = counter_get(&d->count.changed),
                                           .bytes = counter_get(&d->count.bytes),
                                           .scans = counter_get(&d->count.scans),
                                           .lost_events = counter_get(&d->count.lost),
                                           .ledger_bytes = counter_get(&d->count.ledger_bytes),
                                           .ledger_commits = counter_get(&d->count.commits)};
    return LEVEE_OK;
}
