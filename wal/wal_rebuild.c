/*
 * Rebuilding: recovery's first durable act, and the cleaning behind it (rule 4d.2).
 *
 * After a process death the last group may exist only in the page cache. So the verified frames
 * above the witness are written again, with their LSNs, as the first group of a new segment of a
 * new epoch, under a temporary name; sync, rename, sync the directory. From that rename on
 * everything older from its first LSN on is void. Killed before it: nothing happened. Killed after
 * it: the next scan sees the new segment.
 */
#include "wal/wal_scan.h"

#include <stdio.h>

#define REBUILD_SPARE_BYTES                                                                        \
    (256u << 10) /* room beside the rewritten frames, so that a crash loop stays cheap */

/* ---- the group ---- */

struct rebuild {
    struct buf bytes; /* the group, as it will lie at WAL_HEADER_BYTES */
    uint64_t salt, chain, durable;
    bool failed;
};

static void put_frame(struct rebuild *r, const struct wal_header *base, struct levee_slice payload)
{
    uint8_t header[WAL_FRAME_HEADER];
    struct wal_header h = *base;
    struct levee_slice both[2] = {payload, slice_of(NULL, 0)};
    static const uint8_t zeros[8];

    h.len = (uint32_t)payload.len;
    h.durable_lsn = r->durable;
    h.payload_hash = wal_payload_hash(both, r->salt, h.lsn);
    r->chain = wal_header_encode(header, &h, r->salt, WAL_HEADER_BYTES + r->bytes.len, r->chain);
    buf_put(&r->bytes, header, sizeof header);
    buf_put(&r->bytes, payload.data, payload.len);
    buf_put(&r->bytes, zeros, (size_t)(align_up(payload.len, 8) - payload.len));
}

static void put_seal(struct rebuild *r, uint64_t first, uint64_t count)
{
    uint8_t seal[WAL_SEAL_BYTES], pad[2 * WAL_GROUP_ALIGN] = {0};

    put_le64(seal, count);
    put_le64(seal + 8, first);
    put_le64(seal + 16, first + count - 1);
    put_le64(seal + 24, r->bytes.len);
    put_frame(
        r,
        &(struct wal_header){.type = count ? WAL_GROUP_SEAL : WAL_IDLE_SEAL, .lsn = first + count},
        slice_of(seal, sizeof seal));
    uint64_t n = wal_pad_bytes(WAL_HEADER_BYTES + r->bytes.len);
    if (n) {
        put_frame(r, &(struct wal_header){.type = WAL_PAD, .lsn = first + count},
                  slice_of(pad, (size_t)(n - WAL_FRAME_HEADER)));
    }
}

/* The frames [keep_from, keep_to] behind a SEGMENT_START; *entries gets their new places. */
static int build_group(struct io *io, const char *dir, const struct wal_facts *f,
                       const struct wal_start *start, uint64_t keep_to, struct rebuild *r,
                       struct wal_entry *moved, size_t *ret_count, struct levee_error *err)
{
    uint8_t payload[WAL_START_BYTES];
    struct buf one = {0};
    uint64_t lsn = start->first_lsn;
    int code = LEVEE_OK;

    *ret_count = 0;
    wal_start_encode(payload, start);
    put_frame(r, &(struct wal_header){.type = WAL_SEGMENT_START, .lsn = lsn},
              slice_of(payload, sizeof payload));
    for (size_t i = wal_facts_find(f, lsn); i < f->entry_count && f->entries[i].lsn <= keep_to;
         i++) {
        struct wal_entry e = f->entries[i];
        ASSERT(e.lsn == lsn); /* the plan keeps no hole */
        code = wal_read_entry(io, dir, f, &e, &one, err);
        if (code) {
            break;
        }
        struct wal_header h = {
            .type = e.type, .flags = e.flags, .stream = e.stream, .lsn = e.lsn, .seq = e.seq};
        e.offset = (uint32_t)(WAL_HEADER_BYTES + r->bytes.len);
        put_frame(r, &h, buf_view(&one));
        moved[(*ret_count)++] = e;
        lsn++;
    }
    buf_release(&one);
    put_seal(r, start->first_lsn, lsn - start->first_lsn);
    return code ? code : r->bytes.failed ? err_nomem(err, r->bytes.len) : LEVEE_OK;
}

/* ---- facts after the act ---- */

static void void_behind(struct wal_facts *f, uint64_t keep_from)
{
    for (size_t i = 0; i < f->segment_count; i++) {
        struct wal_segment *s = &f->segments[i];
        s->void_tail = s->void_tail || s->first_lsn != 0; /* the new segment follows */
        if (!s->first_lsn || s->last_lsn < keep_from) {
            continue;
        }
        size_t e = wal_facts_find(f, keep_from);
        bool inside = s->first_lsn < keep_from && e < f->entry_count && f->entries[e].segment == i;
        /* The first void frame opens its group, or follows the SEGMENT_START of it. */
        s->end_offset =
            inside ? f->entries[e].offset / WAL_GROUP_ALIGN * WAL_GROUP_ALIGN : WAL_HEADER_BYTES;
        s->last_lsn = s->first_lsn < keep_from ? keep_from - 1 : s->first_lsn - 1;
    }
}

static int describe(struct wal_facts *f, const struct wal_segment *made,
                    const struct wal_entry *moved, size_t count, uint64_t keep_from,
                    struct levee_error *err)
{
    struct wal_segment *segments = mem_alloc((f->segment_count + 1) * sizeof *segments);
    size_t keep = wal_facts_find(f, keep_from);
    struct wal_entry *entries = mem_alloc((keep + count + 1) * sizeof *entries);

    if (!segments || !entries) {
        mem_free(segments);
        mem_free(entries);
        return err_nomem(err, keep * sizeof *entries);
    }
    void_behind(f, keep_from);
    if (f->segment_count) {
        memcpy(segments, f->segments, f->segment_count * sizeof *segments);
    }
    segments[f->segment_count] = *made;
    if (keep) {
        memcpy(entries, f->entries, keep * sizeof *entries);
    }
    for (size_t i = 0; i < count; i++) {
        entries[keep + i] = moved[i];
        entries[keep + i].segment = (uint32_t)f->segment_count;
    }
    mem_free(f->segments);
    mem_free(f->entries);
    f->segments = segments;
    f->entries = entries;
    f->segment_count++;
    f->entry_count = keep + count;
    f->next_lsn = keep_from + count;
    f->epoch_max = made->epoch;
    f->number_max = made->number;
    return LEVEE_OK;
}

static const struct wal_segment *predecessor(const struct wal_facts *f, uint64_t keep_from)
{
    const struct wal_segment *p = NULL;

    for (size_t i = 0; i < f->segment_count; i++) {
        const struct wal_segment *s = &f->segments[i];
        if (s->first_lsn && s->first_lsn < keep_from) {
            p = s;
        }
    }
    return p;
}

static int create(struct io *io, const struct wal_options *o, const struct wal_segment_header *h,
                  struct levee_slice group, struct wal_facts *f, struct levee_error *err)
{
    struct io_file *file = NULL;
    int code = wal_segment_create(io, o->dir, h, group, &file, err);

    if (code == LEVEE_ENOSPACE) { /* unused spares and what has no name hold nothing: their room is
                                     enough for one small segment */
        char path[IO_PATH_MAX];
        for (size_t i = 0; i < f->temps.count; i++) {
            if (io_path(path, o->dir, f->temps.items[i].name, err) == LEVEE_OK) {
                (void)io->ops->unlink(io, path, NULL);
            }
        }
        for (size_t i = 0; i < f->segment_count; i++) {
            if (f->segments[i].spare &&
                io_path(path, o->dir, f->segments[i].name, err) == LEVEE_OK) {
                (void)io->ops->unlink(io, path, NULL);
                f->segments[i].gone = true;
            }
        }
        err_clear(err);
        code = wal_segment_create(io, o->dir, h, group, &file, err);
    }
    if (file) {
        io->ops->close(file);
    }
    return code ? code : wal_segment_publish(io, o->dir, h->number, true, err);
}

int wal_rebuild(struct io *io, const struct wal_options *options, struct wal_facts *facts,
                uint64_t keep_from, uint64_t keep_to, uint64_t epoch, struct levee_error *err)
{
    const struct wal_segment *before = predecessor(facts, keep_from);
    struct wal_start start = {
        .epoch = epoch,
        .first_lsn = keep_from,
        .predecessor = before ? before->number : 0,
        .predecessor_end = before ? before->end_offset : 0,
        .predecessor_last = keep_from - 1,
    };
    struct rebuild r = {.salt = io->ops->random(io) | 1, .durable = keep_from - 1};
    struct wal_entry *moved = mem_alloc((facts->entry_count + 1) * sizeof *moved);
    size_t count = 0;
    int code;

    if (!moved) {
        return err_nomem(err, facts->entry_count * sizeof *moved);
    }
    r.chain = r.salt;
    code = build_group(io, options->dir, facts, &start, keep_to, &r, moved, &count, err);
    if (code == LEVEE_OK) {
        uint64_t segment_bytes =
            options->segment_bytes ? options->segment_bytes : WAL_SEGMENT_DEFAULT;
        uint64_t spare = segment_bytes < REBUILD_SPARE_BYTES ? segment_bytes : REBUILD_SPARE_BYTES;
        struct wal_segment_header h = {
            .context = options->context,
            .number = facts->number_max + 1,
            .salt = r.salt,
            .size = align_up(WAL_HEADER_BYTES + r.bytes.len, WAL_GROUP_ALIGN) + spare,
            .major = WAL_FORMAT_MAJOR,
            .minor = WAL_FORMAT_MINOR,
        };
        code = create(io, options, &h, buf_view(&r.bytes), facts, err);
        struct wal_segment made = {
            .number = h.number,
            .salt = h.salt,
            .size = h.size,
            .first_lsn = keep_from,
            .last_lsn = keep_from + count - 1,
            .end_offset = WAL_HEADER_BYTES + r.bytes.len,
            .used_offset = WAL_HEADER_BYTES + r.bytes.len,
            .epoch = epoch,
            .chain = r.chain,
        };
        wal_segment_name(made.name, made.number);
        if (code == LEVEE_OK) {
            code = describe(facts, &made, moved, count, keep_from, err);
        }
    }
    buf_release(&r.bytes);
    mem_free(moved);
    return code;
}

/* ---- cleaning ---- */

/* What did not verify is kept: the blocks from `from` to the last one that is not blank, in a file
 * of their own in quarantine/. */
static int quarantine_tail(struct io *io, const char *dir, const struct wal_segment *s,
                           uint64_t from, struct levee_error *err)
{
    char name[96], copy[IO_PATH_MAX];
    struct io_file *out = NULL;
    struct wal_window v;
    const uint8_t *p;
    int code = wal_window_segment(&v, io, dir, s, err);

    (void)snprintf(name, sizeof name, "%s.%llu.torn", s->name, (unsigned long long)from);
    if (code == LEVEE_OK) {
        code = io_path(copy, dir, name, err);
    }
    if (code == LEVEE_OK) {
        code = io->ops->open(io, copy, IO_WRITE | IO_CREATE | IO_TRUNCATE, &out, err);
    }
    for (uint64_t at = from; at < s->used_offset && code == LEVEE_OK; at += WAL_GROUP_ALIGN) {
        uint64_t n = s->used_offset - at < WAL_GROUP_ALIGN ? s->used_offset - at : WAL_GROUP_ALIGN;
        int got = wal_window_get(&v, at, (size_t)n, &p);
        if (got == LEVEE_OK && wal_window_blank(&v, at, p, (size_t)n)) {
            continue; /* nothing was written there: a hole */
        }
        if (got == LEVEE_OK) { /* an unreadable block stays a hole */
            struct iovec iov = {(void *)(uintptr_t)p, (size_t)n};
            code = io->ops->pwritev(out, &iov, 1, at - from, err);
        } else if (wal_scan_fatal(got)) {
            code = got;
        }
    }
    if (out && code == LEVEE_OK) {
        code = io->ops->sync(out, err);
    }
    if (out) {
        io->ops->close(out);
    }
    wal_window_close(&v);
    return code ? code : io_quarantine(io, dir, copy, err);
}

/* *names_changed: the directory is to be synced. */
static int give_back(struct io *io, const char *dir, struct wal_segment *s, bool *names_changed,
                     struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_file *f = NULL;
    bool nothing_left = !s->first_lsn || s->last_lsn < s->first_lsn;
    int code = io_path(path, dir, s->name, err);

    if (code == LEVEE_OK && s->header_bad) {
        return io_quarantine(io, dir, path, err);
    }
    if (code == LEVEE_OK && s->torn && s->used_offset > s->end_offset) {
        uint64_t from = s->end_offset > WAL_HEADER_BYTES ? s->end_offset : WAL_HEADER_BYTES;
        code = quarantine_tail(io, dir, s, from, err);
        crash_at(io, CP_REC_AFTER_QUARANTINE);
    }
    if (code == LEVEE_OK && nothing_left) {
        code = io->ops->unlink(io, path, err);
        s->gone = code == LEVEE_OK;
        *names_changed = true;
    } else if (code == LEVEE_OK && s->end_offset < s->size) {
        code = io->ops->open(io, path, IO_WRITE, &f, err);
        if (code == LEVEE_OK) {
            code = io->ops->truncate(f, s->end_offset, err);
            io->ops->close(f);
            s->size = s->end_offset;
        }
    }
    return code;
}

int wal_clean(struct io *io, const struct wal_options *options, struct wal_facts *facts,
              struct levee_error *err)
{
    const char *dir = options->dir;
    char path[IO_PATH_MAX];
    int code = LEVEE_OK;
    bool changed = false;

    for (size_t i = 0; i + 1 < facts->segment_count && code == LEVEE_OK; i++) {
        struct wal_segment *s = &facts->segments[i];
        if (!s->gone && (s->spare || s->void_tail || s->torn || s->header_bad)) {
            code = give_back(io, dir, s, &changed, err);
            crash_at(io, CP_REC_AFTER_VOID);
        }
    }
    for (size_t i = 0; i < facts->temps.count && code == LEVEE_OK; i++) {
        code = io_path(path, dir, facts->temps.items[i].name, err);
        struct io_stat st = {0};
        if (code == LEVEE_OK) {
            code = io->ops->stat(io, path, &st, err);
        }
        if (code == LEVEE_OK && st.kind == IO_FILE) {
            code = io->ops->unlink(io, path, err);
            changed = true;
        }
    }
    return code || !changed ? code : io->ops->sync_dir(io, dir, err);
}
