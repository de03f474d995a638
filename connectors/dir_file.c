/*
 * One file of a directory source: opened as the one that was begun, read to its end, or left behind
 * (D1 to D3 in directory.c).
 */
#include "connectors/dir_internal.h"

#include <inttypes.h>

void dir_file_close(struct dir_source *d)
{
    if (d->reading) {
        dir_reader_close(&d->reader);
        d->reading = false;
    }
}

/* A file that cannot be read as it was begun. true: go on with the next. */
bool dir_file_skip(struct dir_source *d, size_t index, struct levee_error *err)
{
    const struct dir_entry *e = &d->ledger.entries[index];
    uint64_t length = e->flags & DIR_OPEN ? 0 : e->size, hash = e->hash;
    uint64_t last = d->position > e->base ? d->position : e->base;

    if (!d->skip) {
        dir_give_up(d, err, true);
        return false;
    }
    if (d->reading) {
        length = e->flags & DIR_OPEN ? dir_reader_length(&d->reader) : length;
        hash = dir_reader_hash(&d->reader);
        last = d->last > last ? d->last : last;
    }
    length = length < last - e->base ? last - e->base : length;
    if (!(e->flags & DIR_OPEN) && last > e->base + e->size + 1) {
        last = e->base + e->size + 1;
    }
    levee_inlet_report(d->inlet, err);
    counter_add(&d->count.skipped, 1);
    dir_ledger_end(&d->ledger, index, last, length, hash, true);
    dir_file_close(d);
    return true;
}

bool dir_file_finish(struct dir_source *d, struct levee_error *err)
{
    const struct dir_entry *e = &d->ledger.entries[d->current];
    uint64_t hash = dir_reader_hash(&d->reader);

    if ((e->flags & DIR_ENDED) && e->hash != hash) {
        (void)err_set(err, LEVEE_EFILE_CHANGED, "a file is not what it was when it was first read");
        err_where(err, "%s", d->full_path);
        err_expected(err, "hash %016" PRIx64, e->hash);
        err_found(err, "%016" PRIx64, hash);
        return dir_file_skip(d, d->current, err);
    }
    if (d->resuming && !d->checked) {
        (void)err_set(err, LEVEE_EFILE_CHANGED,
                      "a file does not hold the record that was read last from it");
        err_where(err, "%s, offset %" PRIu64, d->full_path, d->position - e->base - 1);
        return dir_file_skip(d, d->current, err);
    }
    if (!(e->flags & DIR_ENDED)) {
        dir_ledger_end(&d->ledger, d->current, d->last, dir_reader_length(&d->reader), hash, false);
    }
    counter_add(&d->count.read, 1);
    dir_file_close(d);
    return true;
}

/* The file as it is now: is it the one that was begun? NOTFOUND: there is none. */
static int find_file(struct dir_source *d, size_t index, struct io_stat *st,
                     struct levee_error *err)
{
    const struct dir_entry *e = &d->ledger.entries[index];
    int code;

    if ((code = dir_ledger_name(&d->ledger, index, d->current_path, err)) ||
        (code = dir_full_path(d, d->current_path, d->full_path, err)) ||
        (code = d->io->ops->stat(d->io, d->full_path, st, err))) {
        return code;
    }
    if (st->kind == IO_FILE && (st->size == e->size || dir_same_inode(e, st))) {
        return LEVEE_OK;
    }
    struct io_stat moved = {0};
    char path[IO_PATH_MAX];
    if (dir_scan_find(d, e, path, &moved, err) == LEVEE_OK) { /* it was renamed meanwhile */
        *st = moved;
        memcpy(d->current_path, path, strlen(path) + 1);
        if ((code = dir_full_path(d, path, d->full_path, err)) == LEVEE_OK) {
            code = dir_ledger_know(&d->ledger, index, path, st, false, err);
        }
        return code;
    }
    return st->kind == IO_FILE ? LEVEE_OK : LEVEE_ENOTFOUND;
}

/* What the position says of a file: nothing of it was taken, something, or all of it. Files are
 * read in order, so all of it was if the position lies beyond its numbers, though a crash may have
 * come before its end was written down. */
enum reach { NOT_REACHED, REACHED, PASSED };
static enum reach reach_of(const struct dir_source *d, size_t index)
{
    const struct dir_entry *e = &d->ledger.entries[index];
    uint64_t end = index + 1 < d->ledger.count ? e[1].base : UINT64_MAX;

    return d->position <= e->base ? NOT_REACHED : d->position <= end ? REACHED : PASSED;
}

/* It cannot be read. Nothing taken of it yet: it does not count, and whatever has its name is
 * looked at anew. */
static bool miss_file(struct dir_source *d, size_t index, bool gone, const struct io_stat *st,
                      struct levee_error *err)
{
    const struct dir_entry *e = &d->ledger.entries[index];
    enum reach reach = reach_of(d, index);
    bool untouched = reach == NOT_REACHED && !(e->flags & DIR_ENDED);

    if (reach == PASSED) { /* only its hash will never be known */
        dir_ledger_end(&d->ledger, index, e->base, e->size, 0, false);
        return true;
    }

    if (gone) {
        (void)err_set(err, LEVEE_EFILE_MISSING, "a file vanished %s",
                      untouched ? "before it was read" : "before all of it was read");
    } else {
        (void)err_set(err, LEVEE_EFILE_CHANGED, "a file changed after it was begun");
        err_expected(err, "%" PRIu64 " bytes, inode %" PRIu64, e->size, e->inode);
        err_found(err, "%" PRIu64 " bytes, inode %" PRIu64, st->size, st->inode);
    }
    err_where(err, "%s, offset %" PRIu64, d->full_path,
              d->position > e->base ? d->position - e->base - 1 : 0);
    if (!untouched) {
        return dir_file_skip(d, index, err);
    }
    dir_ledger_void(&d->ledger, index);
    if (gone) {
        levee_inlet_report(d->inlet, err);
        return true;
    }
    int code = dir_scan_tell(d, d->current_path, err);
    if (code) {
        dir_fail(d, code, err);
    }
    return code == LEVEE_OK;
}

bool dir_file_open(struct dir_source *d, size_t index, struct levee_error *err)
{
    struct io_stat st = {0};
    struct io_file *f = NULL;
    int code = find_file(d, index, &st, err);

    if (code == LEVEE_OK) {
        code = d->io->ops->open(d->io, d->full_path, IO_READ, &f, err);
    }
    const struct dir_entry *e = &d->ledger.entries[index];
    enum reach reach = reach_of(d, index);
    if (code == LEVEE_ENOTFOUND) {
        return miss_file(d, index, true, &st, err);
    }
    if (code == LEVEE_OK) {
        code = dir_reader_open(&d->reader, d->io, f, d->full_path, dir_is_packed(d->current_path),
                               &d->format, err);
    }
    if (code == LEVEE_EUNSUPPORTED) {
        return dir_file_skip(d, index, err);
    }
    if (code) {
        dir_fail(d, code, err);
        return false;
    }
    d->reading = true;
    st = d->reader.begun;
    /* Other numbers with the same size may be a copy put back: its bytes will tell. Where nothing
     * was taken there is nothing to compare with: it is another file. */
    bool exact = dir_same_inode(e, &st) && st.mtime_ns == e->mtime_ns;
    if (st.size != e->size || (!exact && reach == NOT_REACHED && !(e->flags & DIR_ENDED))) {
        dir_file_close(d);
        return miss_file(d, index, false, &st, err);
    }
    d->current = index;
    d->resuming = reach == REACHED;
    d->checked = false;
    d->last = d->resuming ? d->position : e->base;
    return true;
}
