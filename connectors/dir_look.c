/*
 * What a file is to us. It is known when the ledger has its name and the inode, birth, size and
 * time agree; when only the time differs, its bytes decide, by the hash. Beyond that:
 *
 *   other name, known inode and birth     renamed, or a second link: known
 *   known name, other inode               same size and hash: put back, known; else a new file
 *   known inode, other bytes              under its old name, or grown under another: changed after
 *                                         its end, reported once, not read again; else a new file
 *   anything else                         new
 *
 * A new file is begun when nobody has it open for writing, as far as the system tells, and it was
 * not changed for settle_ms: by its own time, or, where that lies in the future, by ours. Whether
 * its time is old does not matter.
 */
#include "connectors/dir_internal.h"

#include <inttypes.h>

#define NS_PER_MS 1000000u
#define PIECE     ((size_t)256 << 10)

bool dir_is_packed(const char *path)
{
    size_t n = strlen(path);

    return n > 3 && memcmp(path + n - 3, ".gz", 3) == 0;
}

bool dir_same_inode(const struct dir_entry *e, const struct io_stat *st)
{
    return e->inode == st->inode && (e->birth && st->birth ? e->birth == st->birth : true);
}

/* Are the file's first bytes, as many as the entry has, those that were read? */
static int same_bytes(struct dir_source *d, const struct dir_entry *e, const char *path,
                      bool *ret_same, struct levee_error *err)
{
    char full[IO_PATH_MAX];
    struct io_file *f = NULL;
    struct hash_stream *hash = hash_stream_new();
    uint8_t *piece = mem_alloc(PIECE);
    uint64_t at = 0;
    size_t got = 1;
    int code = hash && piece ? dir_full_path(d, path, full, err) : err_nomem(err, PIECE);

    if (code == LEVEE_OK && (code = d->io->ops->open(d->io, full, IO_READ, &f, err)) == LEVEE_OK) {
        hash_stream_reset(hash, 0);
        while (code == LEVEE_OK && at < e->size && got) {
            size_t want = e->size - at < PIECE ? (size_t)(e->size - at) : PIECE;
            code = d->io->ops->pread(f, piece, want, at, &got, err);
            if (code == LEVEE_OK) {
                hash_stream_update(hash, piece, got);
                at += got;
            }
        }
        d->io->ops->close(f);
        *ret_same = at == e->size && hash_stream_digest(hash) == e->hash;
    }
    mem_free(piece);
    hash_stream_free(hash);
    return code;
}

/* ---- those that wait ---- */

static struct dir_waiting *waits(struct dir_source *d, const char *path)
{
    uint64_t hash = hash_key(path, strlen(path));
    uint32_t pos = (uint32_t)hash & d->waiting_map.mask;
    struct map_slot *s;

    while ((s = map_probe(&d->waiting_map, hash, &pos)) != NULL) {
        if (strcmp(d->waiting[s->index].path, path) == 0) {
            return &d->waiting[s->index];
        }
        pos = (pos + 1) & d->waiting_map.mask;
    }
    return NULL;
}

static void wait_no_more(struct dir_source *d, const char *path)
{
    struct dir_waiting *w = waits(d, path);

    if (w) {
        uint32_t pos = (uint32_t)w->hash & d->waiting_map.mask;
        struct map_slot *s = map_probe(&d->waiting_map, w->hash, &pos);
        while (s && s->index != (uint32_t)(w - d->waiting)) {
            pos = (pos + 1) & d->waiting_map.mask;
            s = map_probe(&d->waiting_map, w->hash, &pos);
        }
        ASSERT(s != NULL);
        map_remove(&d->waiting_map, s);
        mem_free(w->path);
        w->path = NULL;
        counter_add(&d->count.waiting, (uint64_t)-1);
    }
}

/* Closes the gaps; order stays. */
static void close_ranks(struct dir_source *d)
{
    size_t kept = 0;

    map_clear(&d->waiting_map);
    for (size_t i = 0; i < d->waiting_count; i++) {
        if (d->waiting[i].path) {
            d->waiting[kept] = d->waiting[i];
            bool ok = map_insert(&d->waiting_map, d->waiting[kept].hash, (uint32_t)kept);
            ASSERT(ok); /* there was room for more */
            kept++;
        }
    }
    d->waiting_count = kept;
}

void dir_look_release(struct dir_source *d)
{
    for (size_t i = 0; i < d->waiting_count; i++) {
        counter_add(&d->count.waiting, d->waiting[i].path ? (uint64_t)-1 : 0);
        mem_free(d->waiting[i].path);
    }
    mem_free(d->waiting);
    d->waiting = NULL;
    d->waiting_count = d->waiting_cap = 0;
    map_release(&d->waiting_map);
}

static bool unchanged(const struct io_stat *a, const struct io_stat *b)
{
    return a->size == b->size && a->mtime_ns == b->mtime_ns && a->inode == b->inode;
}

static int wait_for(struct dir_source *d, const char *path, const struct io_stat *st,
                    uint64_t due_ns, struct levee_error *err)
{
    struct dir_waiting *w = waits(d, path);
    uint64_t now = d->io->ops->now_ns(d->io);

    if (!w) {
        char *copy = mem_strdup(path);
        uint64_t hash = hash_key(path, strlen(path));
        if (!copy ||
            !mem_grow((void **)&d->waiting, &d->waiting_cap, d->waiting_count + 1,
                      sizeof *d->waiting) ||
            !map_reserve(&d->waiting_map, (uint32_t)d->waiting_count + 2) ||
            !map_insert(&d->waiting_map, hash, (uint32_t)d->waiting_count)) {
            mem_free(copy);
            return err_nomem(err, sizeof *w);
        }
        w = &d->waiting[d->waiting_count++];
        *w = (struct dir_waiting){.path = copy, .hash = hash, .since_ns = now, .st = *st};
        counter_add(&d->count.waiting, 1);
    } else if (!unchanged(&w->st, st)) {
        w->since_ns = now;
        w->st = *st;
    }
    w->due_ns = due_ns;
    return LEVEE_OK;
}

/* ---- new files ---- */

/* How long until it has rested for settle_ms; 0: it has. */
static uint64_t unsettled_ns(struct dir_source *d, const char *path, const struct io_stat *st)
{
    int64_t settle = (int64_t)d->settle_ms * NS_PER_MS;
    int64_t age = d->io->ops->wall_ms(d->io) * NS_PER_MS - st->mtime_ns;

    if (age >= settle) {
        return 0;
    }
    if (age >= 0) {
        return (uint64_t)(settle - age);
    }
    const struct dir_waiting *w = waits(d, path); /* a time in the future says nothing */
    uint64_t seen = w && unchanged(&w->st, st) ? d->io->ops->now_ns(d->io) - w->since_ns : 0;
    return seen >= (uint64_t)settle ? 0 : (uint64_t)settle - seen;
}

static int begin_file(struct dir_source *d, const char *path, const struct io_stat *st,
                      struct levee_error *err)
{
    size_t index = 0;
    int code = dir_ledger_begin(&d->ledger, path, st, dir_is_packed(path), &index, err);

    if (code == LEVEE_OK) {
        wait_no_more(d, path);
        ASSERT(d->group_count < DIR_GROUP_MAX);
        d->group[d->group_count++] = index;
        counter_add(&d->count.begun, 1);
    }
    return code;
}

static bool may_pass(int code)
{
    return code != LEVEE_OK && code != LEVEE_ECRASHED && code != LEVEE_ENOMEM;
}

/* The directory and those it lies in. */
static int sync_folders(struct dir_source *d, char folder[IO_PATH_MAX], struct levee_error *err)
{
    char full[IO_PATH_MAX];
    int code = LEVEE_OK;

    for (bool above = true; above && code == LEVEE_OK;) {
        if ((code = dir_full_path(d, folder, full, err)) == LEVEE_OK) {
            code = d->io->ops->sync_dir(d->io, full, err);
        }
        char *slash = strrchr(folder, '/');
        above = folder[0] != 0;
        *(slash ? slash : folder) = 0;
    }
    return code;
}

int dir_group_durable(struct dir_source *d, struct levee_error *err)
{
    char last[IO_PATH_MAX] = "", folder[IO_PATH_MAX];
    int code = LEVEE_OK;

    for (size_t i = 0; i < d->group_count && !(code && !may_pass(code)); i++) {
        const char *path = d->ledger.entries[d->group[i]].path, *slash = strrchr(path, '/');
        (void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 0, path);
        if (i == 0 || strcmp(folder, last) != 0) {
            memcpy(last, folder, sizeof last);
            code = sync_folders(d, folder, err);
        }
    }
    return may_pass(code) ? LEVEE_OK : code;
}

/* st is of the path; what counts is the open file. */
static int look_new(struct dir_source *d, const char *path, const char *full, struct io_stat *st,
                    struct levee_error *err)
{
    uint64_t now = d->io->ops->now_ns(d->io), rest = unsettled_ns(d, path, st);
    struct io_file *f = NULL;
    struct levee_error why = {0};

    if (rest) {
        return wait_for(d, path, st, now + rest, err);
    }
    int code = d->io->ops->open(d->io, full, IO_READ, &f, &why);
    if (code == LEVEE_ENOTFOUND) {
        wait_no_more(d, path);
        return LEVEE_OK; /* gone again, or renamed: then its new name is told */
    }
    if (code == LEVEE_ECRASHED || code == LEVEE_ENOMEM) {
        err_copy(err, &why);
        return code;
    }
    if (code) { /* perhaps its rights are still to be given */
        if (!waits(d, path)) {
            levee_inlet_report(d->inlet, &why);
        }
        return wait_for(d, path, st, now + (uint64_t)d->rescan_ms * NS_PER_MS, err);
    }
    bool busy = d->io->ops->has_writer && d->io->ops->has_writer(f);
    struct io_stat opened = *st;
    code = d->io->ops->fstat(f, &opened, err);
    if (code == LEVEE_OK && !busy) {
        code = d->io->ops->sync(f, err);
        code = may_pass(code) ? LEVEE_OK : code;
    }
    d->io->ops->close(f);
    if (code) {
        return code;
    }
    if (busy || !unchanged(&opened, st)) {
        return wait_for(d, path, st, now + (uint64_t)d->settle_ms * NS_PER_MS, err);
    }
    return begin_file(d, path, &opened, err);
}

/* ---- known files ---- */

static int report_changed(struct dir_source *d, size_t index, const char *path,
                          const struct io_stat *st, struct levee_error *err)
{
    struct levee_error why = {0};
    const struct dir_entry *e = &d->ledger.entries[index];

    err_set(&why, LEVEE_EFILE_CHANGED,
            "a file changed after it was read to its end; the change is not read");
    err_where(&why, "%s/%s", d->path, path);
    err_expected(&why, "%" PRIu64 " bytes, hash %016" PRIx64, e->size, e->hash);
    err_found(&why, "%" PRIu64 " bytes", st->size);
    int code = dir_ledger_know(&d->ledger, index, path, st, true, err);
    if (code == LEVEE_OK) {
        levee_inlet_report(d->inlet, &why);
        counter_add(&d->count.changed, 1);
    }
    return code;
}

/* The entry has the file's name (`named`), or its inode, or both. *ret_new: it is another file all
 * the same. */
static int look_known(struct dir_source *d, size_t index, const char *path, bool named,
                      const struct io_stat *st, bool *ret_new, struct levee_error *err)
{
    struct dir_entry *e = &d->ledger.entries[index];
    bool inode = dir_same_inode(e, st), same = false;

    *ret_new = false;
    if (!(e->flags & DIR_ENDED)) {
        *ret_new = !inode;
        return LEVEE_OK; /* it is read now, or its turn comes: the reader judges */
    }
    if (inode && ((named && (e->flags & (DIR_CHANGED | DIR_CUT))) ||
                  (e->size == st->size && e->mtime_ns == st->mtime_ns))) {
        return LEVEE_OK;
    }
    if (st->size == e->size || (inode && !named && st->size > e->size)) {
        int code = same_bytes(d, e, path, &same, err);
        if (code) {
            return code == LEVEE_ENOTFOUND ? LEVEE_OK : code;
        }
    }
    if (same && st->size == e->size) { /* touched, or put back from a copy */
        return dir_ledger_know(&d->ledger, index, path, st, false, err);
    }
    *ret_new = !inode || (!named && !same);
    return *ret_new ? LEVEE_OK : report_changed(d, index, path, st, err);
}

int dir_look(struct dir_source *d, const char *path, const struct io_stat *known,
             struct levee_error *err)
{
    char full[IO_PATH_MAX];
    struct io_stat st = known ? *known : (struct io_stat){0};
    bool is_new = true;
    int code = dir_full_path(d, path, full, err);

    if (code == LEVEE_OK && !known) {
        code = d->io->ops->stat(d->io, full, &st, err);
    }
    if (code) {
        return code;
    }
    if (st.kind != IO_FILE) {
        wait_no_more(d, path);
        return LEVEE_OK;
    }
    size_t index = dir_ledger_by_path(&d->ledger, path);
    if (index != DIR_NONE) {
        code = look_known(d, index, path, true, &st, &is_new, err);
    }
    if (code == LEVEE_OK && is_new) {
        index = dir_ledger_by_inode(&d->ledger, &st);
        if (index != DIR_NONE && dir_same_inode(&d->ledger.entries[index], &st)) {
            code = look_known(d, index, path, false, &st, &is_new, err);
        }
    }
    if (code || !is_new) {
        return code;
    }
    return look_new(d, path, full, &st, err);
}

uint64_t dir_look_due(const struct dir_source *d)
{
    uint64_t due = UINT64_MAX;

    for (size_t i = 0; i < d->waiting_count; i++) {
        due = d->waiting[i].path && d->waiting[i].due_ns < due ? d->waiting[i].due_ns : due;
    }
    return due;
}

int dir_look_waiting(struct dir_source *d, struct levee_error *err)
{
    uint64_t now = d->io->ops->now_ns(d->io);
    size_t n = d->waiting_count;
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK && !dir_group_full(d); i++) {
        if (d->waiting[i].path && d->waiting[i].due_ns <= now) {
            char path[IO_PATH_MAX];
            (void)snprintf(path, sizeof path, "%s", d->waiting[i].path);
            code = dir_look(d, path, NULL, err);
        }
    }
    if (n) {
        close_ranks(d);
    }
    return code;
}
