/*
 * Scanning one segment, group by group. A group counts only as a whole: headers, payload hashes,
 * LSN + 1, chain and a seal that agrees with what was read. After a group that does not verify,
 * every 8 bytes up to the end of the file are tried for verified headers (they are witnesses), and
 * the scan goes on at the next group that verifies.
 */
#include <stdio.h>

#include "wal/wal_scan.h"

struct place { /* where the scan is in its segment */
    uint64_t offset, lsn, chain;
    bool chain_known; /* not right behind damage */
};

static enum wal_verdict header_at(struct wal_scan_state *s, struct wal_window *v, uint64_t salt,
                                  uint64_t offset, struct wal_header *ret)
{
    const uint8_t *p;
    int code = wal_window_get(v, offset, WAL_FRAME_HEADER, &p);

    s->bad.kind = WAL_BAD_FRAME;
    s->bad.expected = s->bad.found = 0;
    if (wal_scan_fatal(code)) {
        s->code = code;
        return WAL_FRAME_BAD;
    }
    if (code) {
        s->bad.kind = code == LEVEE_ENOTFOUND ? WAL_BAD_FRAME : WAL_BAD_READ;
        return code == LEVEE_ENOTFOUND ? WAL_FRAME_ZERO : WAL_FRAME_BAD;
    }
    enum wal_verdict verdict = wal_header_decode(p, salt, offset, ret);
    if (verdict == WAL_FRAME_STALE) {
        s->bad.kind = WAL_BAD_STALE;
    }
    return verdict;
}

static bool add_entry(struct wal_scan_state *s, uint32_t segment, uint64_t offset,
                      const struct wal_header *h)
{
    struct wal_facts *f = s->facts;

    if (!mem_grow((void **)&f->entries, &s->entry_cap, f->entry_count + 1, sizeof *f->entries)) {
        s->code = LEVEE_ENOMEM;
        return false;
    }
    f->entries[f->entry_count++] = (struct wal_entry){
        .lsn = h->lsn,
        .seq = h->seq,
        .segment = segment,
        .len = h->len,
        .offset = (uint32_t)offset,
        .stream = h->stream,
        .type = h->type,
        .flags = h->flags,
    };
    return true;
}

static void note_witness(struct wal_facts *f, const struct wal_header *h)
{
    if (h->durable_lsn > f->witnessed_lsn) {
        f->witnessed_lsn = h->durable_lsn;
    }
}

/* The payload's hash, and the chain over the header. */
static bool frame_ok(struct wal_scan_state *s, struct wal_window *v, uint64_t salt, uint64_t offset,
                     const struct wal_header *h, const struct place *at)
{
    const uint8_t *p = NULL;
    int code = wal_window_get(v, offset, WAL_FRAME_HEADER, &p);

    if (code == LEVEE_OK && at->chain_known && hash64(p, 40, at->chain) != h->chain) {
        s->bad.kind = WAL_BAD_SEQUENCE;
        return false;
    }
    if (code == LEVEE_OK && h->len) {
        code = wal_window_get(v, offset + WAL_FRAME_HEADER, h->len, &p);
    }
    if (wal_scan_fatal(code)) {
        s->code = code;
    }
    if (code) {
        s->bad.kind = code == LEVEE_ENOTFOUND ? WAL_BAD_FRAME : WAL_BAD_READ;
        return false;
    }
    struct levee_slice both[2] = {slice_of(p, h->len), slice_of(NULL, 0)};
    s->bad.expected = h->payload_hash;
    s->bad.found = wal_payload_hash(both, salt, h->lsn);
    return s->bad.found == s->bad.expected;
}

static bool seal_ok(struct wal_scan_state *s, struct wal_window *v, uint64_t offset,
                    const struct place *from, uint64_t next_lsn)
{
    const uint8_t *p = NULL;

    if (wal_window_get(v, offset + WAL_FRAME_HEADER, WAL_SEAL_BYTES, &p) != LEVEE_OK) {
        return false;
    }
    s->bad.kind = WAL_BAD_SEQUENCE;
    s->bad.expected = get_le64(p + 8);
    s->bad.found = from->lsn;
    return get_le64(p) == next_lsn - from->lsn && get_le64(p + 8) == from->lsn &&
           get_le64(p + 16) == next_lsn - 1 && get_le64(p + 24) == offset - from->offset;
}

enum group_result { GROUP_OK, GROUP_END, GROUP_BAD };

/* Parses the group at *at; OK moves *at behind it. */
static enum group_result scan_group(struct wal_scan_state *s, struct wal_window *v, uint32_t index,
                                    struct place *at)
{
    const struct wal_segment *seg = &s->facts->segments[index];
    size_t entries_before = s->facts->entry_count;
    struct place now = *at;
    bool sealed = false;

    for (;;) {
        struct wal_header h;
        enum wal_verdict verdict = header_at(s, v, seg->salt, now.offset, &h);
        if (verdict == WAL_FRAME_ZERO && now.offset == at->offset) {
            return GROUP_END;
        }
        if (verdict != WAL_FRAME_OK) {
            break;
        }
        note_witness(s->facts, &h);
        if (h.lsn != now.lsn || h.type == 0 || h.type > WAL_PAD || (sealed && h.type != WAL_PAD)) {
            s->bad.kind = WAL_BAD_SEQUENCE;
            s->bad.expected = now.lsn;
            s->bad.found = h.lsn;
            break;
        }
        if (!frame_ok(s, v, seg->salt, now.offset, &h, &now)) {
            break;
        }
        now.chain = h.chain;
        now.chain_known = true;
        if (h.type == WAL_GROUP_SEAL || h.type == WAL_IDLE_SEAL) {
            sealed = h.len == WAL_SEAL_BYTES && seal_ok(s, v, now.offset, at, now.lsn);
            if (!sealed) {
                break;
            }
        } else if (h.type <= WAL_DATA_MAX) {
            if (!add_entry(s, index, now.offset, &h)) {
                break;
            }
            now.lsn++;
        }
        now.offset += wal_frame_bytes(h.len);
        if (sealed && now.offset % WAL_GROUP_ALIGN == 0) {
            *at = now;
            return GROUP_OK;
        }
    }
    s->bad.offset = now.offset;
    s->bad.lsn = now.lsn;
    s->bad.group_seal_ok = sealed;
    s->facts->entry_count = entries_before;
    return GROUP_BAD;
}

/* Zeros from here to the end of the file? */
static bool clean_to_end(struct wal_scan_state *s, struct wal_window *v, uint64_t from)
{
    const uint8_t *p;
    const uint64_t step = 1u << 20;

    for (uint64_t at = from; at < v->file_size && s->code == LEVEE_OK; at += step) {
        uint64_t n = v->file_size - at < step ? v->file_size - at : step;
        int code = wal_window_get(v, at, (size_t)n, &p);
        if (wal_scan_fatal(code)) {
            s->code = code;
        } else if (code || !wal_is_zero(p, (size_t)n)) {
            return false;
        }
    }
    return true;
}

/* Every verified header behind a bad group is a witness, unless a successor has made it void. */
static void look_ahead(struct wal_scan_state *s, struct wal_window *v, struct wal_segment *seg,
                       uint64_t from, uint64_t limit)
{
    const uint8_t *p;

    for (uint64_t at = from; at + WAL_FRAME_HEADER <= v->file_size && s->code == LEVEE_OK;
         at += WAL_GROUP_ALIGN) {
        uint64_t left = v->file_size - at;
        size_t len = left < WAL_GROUP_ALIGN ? (size_t)left : WAL_GROUP_ALIGN;
        int code = wal_window_get(v, at, len, &p);
        if (wal_scan_fatal(code)) {
            s->code = code;
        }
        if (code || wal_is_zero(p, len)) {
            continue;
        }
        seg->used_offset = at + len;
        for (size_t i = 0; i + WAL_FRAME_HEADER <= len; i += 8) {
            struct wal_header h;
            if (wal_header_decode(p + i, seg->salt, at + i, &h) == WAL_FRAME_OK && h.lsn < limit) {
                s->bad.later_valid = true;
                note_witness(s->facts, &h);
                if (h.durable_lsn > s->bad.witness_lsn) {
                    s->bad.witness_lsn = h.durable_lsn;
                }
            }
        }
    }
}

/* The next boundary where a whole group verifies. */
static bool resume(struct wal_scan_state *s, struct wal_window *v, uint32_t index, struct place *at,
                   uint64_t limit, uint64_t *ret_lsn)
{
    const struct wal_segment *seg = &s->facts->segments[index];
    struct wal_bad keep = s->bad;
    bool found = false;

    for (uint64_t b = at->offset + WAL_GROUP_ALIGN;
         b < v->file_size && !found && s->code == LEVEE_OK; b += WAL_GROUP_ALIGN) {
        struct wal_header h;
        if (header_at(s, v, seg->salt, b, &h) != WAL_FRAME_OK || h.lsn >= limit ||
            h.lsn < at->lsn) {
            continue;
        }
        struct place there = {b, h.lsn, 0, false};
        if (scan_group(s, v, index, &there) == GROUP_OK) {
            *at = there;
            *ret_lsn = h.lsn;
            found = true;
        }
    }
    s->bad = keep;
    return found;
}

static bool note_bad(struct wal_scan_state *s, uint32_t index, const struct place *group,
                     bool resumed, uint64_t lsn)
{
    struct wal_facts *f = s->facts;

    if (!mem_grow((void **)&f->bads, &s->bad_cap, f->bad_count + 1, sizeof *f->bads)) {
        s->code = LEVEE_ENOMEM;
        return false;
    }
    (void)snprintf(s->bad.segment, sizeof s->bad.segment, "%s", f->segments[index].name);
    s->bad.segment_index = index;
    s->bad.group_offset = group->offset;
    s->bad.group_lsn = group->lsn;
    s->bad.end_lsn = resumed ? lsn : UINT64_MAX;
    f->bads[f->bad_count++] = s->bad;
    return true;
}

void wal_scan_groups(struct wal_scan_state *s, uint32_t index, uint64_t limit)
{
    struct wal_segment *seg = &s->facts->segments[index];
    struct wal_window v;
    struct place at = {WAL_HEADER_BYTES, seg->first_lsn, seg->salt, true};

    s->code = wal_window_open(&v, s->io, s->dir, seg->name, s->err);
    seg->end_offset = at.offset;
    seg->last_lsn = at.lsn - 1;
    seg->chain = at.chain;
    while (s->code == LEVEE_OK && at.lsn < limit) {
        struct place group = at;
        uint64_t lsn = 0;
        memset(&s->bad, 0, sizeof s->bad);
        enum group_result r = scan_group(s, &v, index, &at);
        if (r != GROUP_OK) {
            if (s->code || (r == GROUP_END && clean_to_end(s, &v, group.offset))) {
                break;
            }
            if (r == GROUP_END) {
                s->bad.offset = group.offset;
                s->bad.lsn = group.lsn;
            }
            look_ahead(s, &v, seg, group.offset, limit);
            bool resumed = resume(s, &v, index, &at, limit, &lsn);
            if (s->code || !note_bad(s, index, &group, resumed, lsn) || !resumed) {
                break;
            }
        }
        seg->end_offset = at.offset;
        seg->last_lsn = at.lsn - 1;
        seg->chain = at.chain;
        if (seg->used_offset < at.offset) {
            seg->used_offset = at.offset;
        }
    }
    wal_window_close(&v);
}
