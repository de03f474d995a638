/*
 * Scanning: the whole log as facts, without changing a byte.
 *
 *   1  headers and SEGMENT_START of every segment, in number order; a segment's frames are in force
 *      below the lowest first LSN of all later segments (rule 4d.2), what lies behind is void
 *   2  groups in order (wal_groups.c)
 *   3  the witness: the highest durable LSN that any verified header carries
 *   4  the first bad group above the witness, with no whole group behind it in its segment, begins
 *      the tail: everything from there on is left out of the entries
 *
 * Bad places at or below the witness are damage; recovery decides whether it matters.
 */
#include "wal/wal_scan.h"

#include <stdio.h>

/* ---- headers ---- */

static int newer(const struct wal_segment_header *h, const char *name, struct levee_error *err)
{
    err_set(err, LEVEE_EDIR_NEWER, "a log segment was written by a newer levee");
    err_where(err, "%s", name);
    err_expected(err, "format %u, no incompatible features", WAL_FORMAT_MAJOR);
    err_found(err, "format %u.%u, features %08x", h->major, h->minor, h->incompatible);
    return LEVEE_EDIR_NEWER;
}

/* The first frame: a used segment begins with SEGMENT_START, and a spare is blank to its end.
 * One in use that has lost its first block is no spare: the rest of it may be acknowledged. */
static void read_start(struct wal_scan_state *s, struct wal_segment *seg, struct wal_window *v)
{
    const uint8_t *p;
    struct wal_header h;
    int code = wal_window_get(v, WAL_HEADER_BYTES, WAL_FRAME_HEADER + WAL_START_BYTES, &p);

    if (wal_scan_fatal(code)) {
        s->code = code;
        return;
    }
    if (code == LEVEE_OK && wal_header_decode(p, seg->salt, WAL_HEADER_BYTES, &h) == WAL_FRAME_OK &&
        h.type == WAL_SEGMENT_START && h.len == WAL_START_BYTES) {
        struct levee_slice both[2] = {slice_of(p + WAL_FRAME_HEADER, h.len), slice_of(NULL, 0)};
        if (wal_payload_hash(both, seg->salt, h.lsn) == h.payload_hash) {
            struct wal_start start;
            wal_start_decode(p + WAL_FRAME_HEADER, &start);
            seg->first_lsn = start.first_lsn;
            seg->epoch = start.epoch;
            seg->predecessor = start.predecessor;
            seg->predecessor_last = start.predecessor_last;
            return;
        }
    }
    seg->spare = code == LEVEE_OK && wal_scan_clean(s, v, WAL_HEADER_BYTES);
}

static void read_segment(struct wal_scan_state *s, const char *name, uint64_t number,
                         const struct uuid *context)
{
    struct wal_facts *f = s->facts;
    struct wal_window v;
    struct wal_segment_header h = {0};

    if (!mem_grow((void **)&f->segments, &s->segment_cap, f->segment_count + 1,
                  sizeof *f->segments)) {
        s->code = LEVEE_ENOMEM;
        return;
    }
    struct wal_segment *seg = &f->segments[f->segment_count];
    *seg = (struct wal_segment){.number = number};
    (void)snprintf(seg->name, sizeof seg->name, "%s", name);
    f->number_max = number > f->number_max ? number : f->number_max;
    s->code = wal_window_open(&v, s->io, s->dir, name, s->err);
    if (s->code) {
        wal_window_close(&v); /* it may be open all the same */
        return;
    }
    enum wal_header_state state = wal_segment_header_read(s->io, v.file, &h, &s->code, s->err);
    seg->size = v.file_size;
    seg->used_offset = WAL_HEADER_BYTES;
    if (state == WAL_HEADER_NEWER) {
        s->code = newer(&h, name, s->err);
    } else if (state == WAL_HEADER_BAD || h.number != number) {
        seg->header_bad = true;
        f->segment_count++;
    } else if (!uuid_eq(&h.context, context)) {
        f->foreign = h.context;
        f->has_foreign = true;
    } else {
        seg->salt = h.salt;
        seg->recycled = (h.incompatible & WAL_RECYCLED) != 0;
        seg->groups_end = seg->recycled ? h.size : 0;
        seg->header_repaired = state == WAL_HEADER_REPAIRED;
        if (s->code == LEVEE_OK && seg->recycled) {
            s->code = wal_window_imprint(&v, h.size, h.salt);
        }
        if (s->code == LEVEE_OK) {
            read_start(s, seg, &v);
        }
        f->epoch_max = seg->epoch > f->epoch_max ? seg->epoch : f->epoch_max;
        f->segment_count++;
    }
    wal_window_close(&v);
}

static void read_headers(struct wal_scan_state *s, const struct uuid *context)
{
    struct io_list list = {0};
    uint64_t number;

    s->code = s->io->ops->list(s->io, s->dir, &list, s->err);
    for (size_t i = 0; i < list.count && s->code == LEVEE_OK; i++) {
        char *name = list.items[i].name;
        if (io_is_temp(name)) {
            if (!mem_grow((void **)&s->facts->temps.items, &s->facts->temp_cap,
                          s->facts->temps.count + 1, sizeof(struct io_name))) {
                s->code = LEVEE_ENOMEM;
                break;
            }
            s->facts->temps.items[s->facts->temps.count++].name = name;
            list.items[i].name = NULL; /* moves over */
        } else if (strlen(name) == 20 && wal_segment_number(name, &number)) {
            read_segment(s, name, number, context);
        }
    }
    io_list_free(&list);
}

/* ---- continuity ---- */

static void note_hole(struct wal_scan_state *s, uint32_t index, enum wal_bad_kind kind,
                      uint64_t lsn, uint64_t end_lsn, uint64_t expected, uint64_t found)
{
    struct wal_facts *f = s->facts;

    if (!mem_grow((void **)&f->bads, &s->bad_cap, f->bad_count + 1, sizeof *f->bads)) {
        s->code = LEVEE_ENOMEM;
        return;
    }
    struct wal_bad *b = &f->bads[f->bad_count++];
    *b = (struct wal_bad){
        .kind = kind, .lsn = lsn, .group_lsn = lsn, .end_lsn = end_lsn, .segment_index = index};
    b->offset = b->group_offset = kind == WAL_BAD_HEADER ? 0 : WAL_HEADER_BYTES;
    b->expected = expected;
    b->found = found;
    (void)snprintf(b->segment, sizeof b->segment, "%s", f->segments[index].name);
}

static uint64_t limit_of(const struct wal_facts *f, size_t index)
{
    uint64_t limit = UINT64_MAX;

    for (size_t i = index + 1; i < f->segment_count; i++) {
        if (f->segments[i].first_lsn && f->segments[i].first_lsn < limit) {
            limit = f->segments[i].first_lsn;
        }
    }
    return limit;
}

/* A segment of which header or SEGMENT_START is bad: its contents cannot be told. Between two
 * segments that follow each other it holds nothing in force. */
static void scan_unknown(struct wal_scan_state *s, uint32_t index, uint64_t last, uint64_t limit)
{
    struct wal_segment *seg = &s->facts->segments[index];

    seg->void_tail = true;
    seg->end_offset = WAL_HEADER_BYTES;
    if (!seg->header_bad) {
        seg->torn = true;
        wal_scan_startless(s, index, last + 1, limit);
    } else if (limit > last + 1) {
        note_hole(s, index, WAL_BAD_HEADER, last + 1, limit, 0, 0);
    }
}

static void scan_segments(struct wal_scan_state *s)
{
    struct wal_facts *f = s->facts;
    uint64_t last = 0; /* of the log so far */

    for (uint32_t i = 0; i < f->segment_count && s->code == LEVEE_OK; i++) {
        struct wal_segment *seg = &f->segments[i];
        uint64_t limit = limit_of(f, i);
        if (seg->header_bad || (!seg->first_lsn && !seg->spare)) {
            scan_unknown(s, i, last, limit);
            continue;
        }
        if (seg->spare || seg->first_lsn >= limit) {
            seg->void_tail = seg->first_lsn != 0;
            seg->last_lsn = seg->first_lsn ? seg->first_lsn - 1 : 0;
            seg->end_offset = WAL_HEADER_BYTES;
            continue;
        }
        if (f->first_lsn == 0) {
            f->first_lsn = seg->first_lsn;
        } else if (seg->first_lsn > last + 1 &&
                   !(f->bad_count && f->bads[f->bad_count - 1].end_lsn == seg->first_lsn)) {
            note_hole(s, i, WAL_BAD_MISSING, last + 1, seg->first_lsn, seg->predecessor,
                      seg->number);
        }
        wal_scan_groups(s, i, limit);
        seg->void_tail = limit != UINT64_MAX;
        last = seg->last_lsn;
    }
    f->next_lsn = last + 1;
}

/* ---- the tail ---- */

static void cut_tail(struct wal_facts *f)
{
    for (size_t i = 0; i < f->bad_count; i++) {
        struct wal_bad *b = &f->bads[i];
        b->witnessed = b->synced || b->group_lsn <= f->witnessed_lsn;
        if (b->witnessed) {
            continue;
        }
        f->next_lsn = b->group_lsn < f->next_lsn ? b->group_lsn : f->next_lsn;
        f->bad_count = i + 1; /* what lies behind is dropped with it */
        while (f->entry_count && f->entries[f->entry_count - 1].lsn >= b->group_lsn) {
            f->entry_count--;
        }
        struct wal_segment *seg = &f->segments[b->segment_index];
        seg->torn = true;
        if (b->kind != WAL_BAD_HEADER && seg->first_lsn && seg->first_lsn <= b->group_lsn) {
            seg->end_offset = b->group_offset;
            seg->last_lsn = b->group_lsn - 1;
        }
        for (size_t k = b->segment_index + 1u; k < f->segment_count; k++) {
            f->segments[k].torn = !f->segments[k].spare;
        }
        break;
    }
    if (f->bad_count) {
        f->bad = f->bads[0];
    }
}

int wal_scan(struct io *io, const char *dir, const struct uuid *context, uint64_t w_floor,
             struct wal_facts *ret, struct levee_error *err)
{
    struct wal_facts facts = {.witnessed_lsn = w_floor};
    struct wal_scan_state s = {.io = io, .dir = dir, .facts = &facts, .err = err};

    read_headers(&s, context);
    if (s.code == LEVEE_OK) {
        scan_segments(&s);
    }
    if (s.code) {
        wal_facts_release(&facts);
        return s.code == LEVEE_ENOMEM ? err_nomem(err, 0) : s.code;
    }
    cut_tail(&facts);
    if (facts.first_lsn == 0) {
        facts.first_lsn = facts.next_lsn;
    }
    *ret = facts;
    return LEVEE_OK;
}

void wal_facts_release(struct wal_facts *f)
{
    mem_free(f->segments);
    mem_free(f->entries);
    mem_free(f->bads);
    io_list_free(&f->temps);
    *f = (struct wal_facts){0};
}

size_t wal_facts_find(const struct wal_facts *f, uint64_t lsn)
{
    size_t lo = 0, hi = f->entry_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (f->entries[mid].lsn < lsn) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

int wal_read_entry(struct io *io, const char *dir, const struct wal_facts *facts,
                   const struct wal_entry *entry, struct buf *buf, struct levee_error *err)
{
    const struct wal_segment *seg = &facts->segments[entry->segment];
    char path[IO_PATH_MAX];
    uint8_t raw[WAL_FRAME_HEADER];
    struct wal_header h = {0};
    struct io_file *f = NULL;
    int code = io_path(path, dir, seg->name, err);

    buf_clear(buf);
    if (code == LEVEE_OK && !buf_reserve(buf, entry->len + 1)) {
        code = err_nomem(err, entry->len);
    }
    if (code == LEVEE_OK) {
        code = io->ops->open(io, path, IO_READ, &f, err);
    }
    if (code == LEVEE_OK) {
        code = io_pread_all(f, io, raw, sizeof raw, entry->offset, err);
    }
    if (code == LEVEE_OK) {
        code = io_pread_all(f, io, buf->data, entry->len, entry->offset + WAL_FRAME_HEADER, err);
    }
    if (f) {
        io->ops->close(f);
    }
    if (code) {
        return code;
    }
    buf->len = entry->len;
    struct levee_slice both[2] = {buf_view(buf), slice_of(NULL, 0)};
    if (wal_header_decode(raw, seg->salt, entry->offset, &h) != WAL_FRAME_OK ||
        h.lsn != entry->lsn || h.len != entry->len ||
        wal_payload_hash(both, seg->salt, h.lsn) != h.payload_hash) {
        struct io_stat st = {0};
        if (io->ops->stat(io, path, &st, NULL) == LEVEE_OK && st.kind == IO_NONE) {
            err_set(err, LEVEE_EWAL_GAP, "a frame was trimmed while it was read");
            err_where(err, "%s, LSN %llu", path, (unsigned long long)entry->lsn);
            return LEVEE_EWAL_GAP;
        }
        err_set(err, LEVEE_EWAL_CORRUPT, "a frame no longer verifies");
        err_where(err, "%s, offset %u, LSN %llu", path, entry->offset,
                  (unsigned long long)entry->lsn);
        return LEVEE_EWAL_CORRUPT;
    }
    return LEVEE_OK;
}
