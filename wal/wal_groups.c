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

static bool in_blank_block(struct wal_scan_state *s, struct wal_window *v, uint64_t offset)
{
    uint64_t block = offset / WAL_GROUP_ALIGN * WAL_GROUP_ALIGN;
    const uint8_t *p;
    int code = wal_window_get(v, block, WAL_GROUP_ALIGN, &p);

    if (wal_scan_fatal(code)) {
        s->code = code;
    }
    return code == LEVEE_OK && wal_window_blank(v, block, p, WAL_GROUP_ALIGN);
}

/* *ret_raw: the header's bytes, valid until the next look through the window. */
static enum wal_verdict header_at(struct wal_scan_state *s, struct wal_window *v, uint64_t salt,
                                  uint64_t offset, struct wal_header *ret, const uint8_t **ret_raw)
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
    *ret_raw = p;
    enum wal_verdict verdict = wal_header_decode(p, salt, offset, ret);
    if (verdict != WAL_FRAME_OK && v->recycled && in_blank_block(s, v, offset)) {
        return WAL_FRAME_ZERO; /* where the log has not written, whatever lies there is nothing */
    }
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

/* The verified payload; NULL: bad or unreadable. */
static const uint8_t *payload_at(struct wal_scan_state *s, struct wal_window *v, uint64_t salt,
                                 uint64_t offset, const struct wal_header *h)
{
    const uint8_t *p = base_nothing;
    int code = h->len ? wal_window_get(v, offset + WAL_FRAME_HEADER, h->len, &p) : LEVEE_OK;

    if (wal_scan_fatal(code)) {
        s->code = code;
    }
    if (code) {
        s->bad.kind = code == LEVEE_ENOTFOUND ? WAL_BAD_FRAME : WAL_BAD_READ;
        return NULL;
    }
    struct levee_slice both[2] = {slice_of(p, h->len), slice_of(NULL, 0)};
    s->bad.expected = h->payload_hash;
    s->bad.found = wal_payload_hash(both, salt, h->lsn);
    return s->bad.found == s->bad.expected ? p : NULL;
}

/* Does a seal at this offset, ahead of next_lsn, close the group that began at `from`? */
static bool seal_fits(const uint8_t *seal, uint64_t offset, const struct place *from,
                      uint64_t next_lsn)
{
    return get_le64(seal) == next_lsn - from->lsn && get_le64(seal + 8) == from->lsn &&
           get_le64(seal + 16) == next_lsn - 1 && get_le64(seal + 24) == offset - from->offset;
}

static bool out_of_sequence(struct wal_scan_state *s, uint64_t expected, uint64_t found)
{
    s->bad.kind = WAL_BAD_SEQUENCE;
    s->bad.expected = expected;
    s->bad.found = found;
    return false;
}

/* One verified header at *now within the group that began at `from`: is it the frame that has to be
 * here? Moves *now behind it. */
static bool take_frame(struct wal_scan_state *s, struct wal_window *v, uint32_t index,
                       const struct place *from, const struct wal_header *h, const uint8_t *raw,
                       struct place *now, bool *sealed)
{
    uint64_t salt = s->facts->segments[index].salt;

    bool first = now->offset == WAL_HEADER_BYTES;

    if (h->lsn != now->lsn || h->type == 0 || h->type > WAL_PAD ||
        *sealed != (h->type == WAL_PAD) || first != (h->type == WAL_SEGMENT_START)) {
        return out_of_sequence(s, now->lsn, h->lsn);
    }
    if (now->chain_known && hash64(raw, 40, now->chain) != h->chain) {
        return out_of_sequence(s, hash64(raw, 40, now->chain), h->chain);
    }
    const uint8_t *payload = payload_at(s, v, salt, now->offset, h);
    if (!payload) {
        return false;
    }
    if (h->type == WAL_GROUP_SEAL || h->type == WAL_IDLE_SEAL) {
        if (h->len != WAL_SEAL_BYTES || !seal_fits(payload, now->offset, from, now->lsn)) {
            return out_of_sequence(s, from->lsn, h->lsn);
        }
        *sealed = true;
    } else if (h->type <= WAL_DATA_MAX) {
        if (!add_entry(s, index, now->offset, h)) {
            return false;
        }
        now->lsn++;
    }
    now->chain = h->chain;
    now->chain_known = true;
    now->offset += wal_frame_bytes(h->len);
    return true;
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

    while (!sealed || now.offset % WAL_GROUP_ALIGN != 0) {
        struct wal_header h;
        const uint8_t *raw;
        enum wal_verdict verdict = header_at(s, v, seg->salt, now.offset, &h, &raw);
        if (verdict == WAL_FRAME_ZERO && now.offset == at->offset) {
            return GROUP_END;
        }
        if (verdict == WAL_FRAME_OK) {
            note_witness(s->facts, &h);
        }
        if (verdict != WAL_FRAME_OK || !take_frame(s, v, index, at, &h, raw, &now, &sealed)) {
            s->bad.offset = now.offset;
            s->bad.lsn = now.lsn;
            s->bad.group_seal_ok = sealed;
            s->facts->entry_count = entries_before;
            return GROUP_BAD;
        }
    }
    *at = now;
    return GROUP_OK;
}

bool wal_scan_clean(struct wal_scan_state *s, struct wal_window *v, uint64_t from)
{
    const uint8_t *p;

    for (uint64_t at = from; at < v->file_size && s->code == LEVEE_OK; at += WAL_GROUP_ALIGN) {
        uint64_t left = v->file_size - at;
        size_t n = left < WAL_GROUP_ALIGN ? (size_t)left : WAL_GROUP_ALIGN;
        int code = wal_window_get(v, at, n, &p);
        if (wal_scan_fatal(code)) {
            s->code = code;
        } else if (code || !wal_window_blank(v, at, p, n)) {
            return false;
        }
    }
    return true;
}

/* Every verified header in one block, which may reach into the next one, is a witness, unless a
 * successor has made it void. `h` is what the caller wants to know of the first seal. */
struct found_seal {
    uint64_t offset; /* 0: none */
    struct wal_header h;
};

static void look_at_block(struct wal_scan_state *s, const uint8_t *p, size_t len, uint64_t salt,
                          uint64_t at, uint64_t limit, struct found_seal *seal)
{
    for (size_t i = 0; i < WAL_GROUP_ALIGN && i + WAL_FRAME_HEADER <= len; i += 8) {
        struct wal_header h;
        if (wal_header_decode(p + i, salt, at + i, &h) != WAL_FRAME_OK) {
            continue;
        }
        if (h.type == WAL_GROUP_SEAL && seal->offset == 0) {
            *seal = (struct found_seal){at + i, h};
        }
        if (h.lsn < limit) {
            s->bad.later_valid = s->bad.later_valid || at + i > s->bad.offset;
            note_witness(s->facts, &h);
            if (h.durable_lsn > s->bad.witness_lsn) {
                s->bad.witness_lsn = h.durable_lsn;
            }
        }
    }
}

static void look_ahead(struct wal_scan_state *s, struct wal_window *v, struct wal_segment *seg,
                       const struct place *group, uint64_t limit)
{
    const size_t reach = WAL_GROUP_ALIGN + WAL_FRAME_HEADER - 8; /* of headers that begin here */
    struct found_seal seal = {0};
    const uint8_t *p;

    for (uint64_t at = group->offset; at < v->file_size && s->code == LEVEE_OK;
         at += WAL_GROUP_ALIGN) {
        uint64_t left = v->file_size - at;
        size_t len = left < reach ? (size_t)left : reach;
        int code = wal_window_get(v, at, len, &p);
        if (code && !wal_scan_fatal(code) && len > WAL_GROUP_ALIGN) {
            len = WAL_GROUP_ALIGN; /* the bad sector may lie in the next block */
            code = wal_window_get(v, at, len, &p);
        }
        if (wal_scan_fatal(code)) {
            s->code = code;
        }
        size_t own = len < WAL_GROUP_ALIGN ? len : WAL_GROUP_ALIGN;
        if (code || wal_window_blank(v, at, p, own)) {
            continue;
        }
        seg->used_offset = at + own;
        look_at_block(s, p, len, seg->salt, at, limit, &seal);
    }
    /* The first seal behind the beginning of the group is its own, unless that one is damaged. */
    if (seal.offset && s->code == LEVEE_OK && seal.h.len == WAL_SEAL_BYTES) {
        struct wal_bad keep = s->bad;
        p = payload_at(s, v, seg->salt, seal.offset, &seal.h);
        s->bad = keep;
        s->bad.group_seal_ok =
            keep.group_seal_ok || (p && seal_fits(p, seal.offset, group, seal.h.lsn));
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
        const uint8_t *raw;
        if (header_at(s, v, seg->salt, b, &h, &raw) != WAL_FRAME_OK || h.lsn >= limit ||
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

static void note_bad(struct wal_scan_state *s, uint32_t index, const struct place *group,
                     bool synced, uint64_t end_lsn)
{
    struct wal_facts *f = s->facts;

    if (!mem_grow((void **)&f->bads, &s->bad_cap, f->bad_count + 1, sizeof *f->bads)) {
        s->code = LEVEE_ENOMEM;
        return;
    }
    (void)snprintf(s->bad.segment, sizeof s->bad.segment, "%s", f->segments[index].name);
    s->bad.segment_index = index;
    s->bad.group_offset = group->offset;
    s->bad.group_lsn = group->lsn;
    s->bad.end_lsn = end_lsn;
    s->bad.synced = synced;
    f->bads[f->bad_count++] = s->bad;
}

/* A group that does not verify: what it is evidence of. True: the scan can go on at *at. */
static bool pass_bad_group(struct wal_scan_state *s, struct wal_window *v, uint32_t index,
                           struct place *at, uint64_t limit)
{
    struct wal_segment *seg = &s->facts->segments[index];
    struct place group = *at;
    uint64_t lsn = limit;

    look_ahead(s, v, seg, &group, limit);
    bool resumed = resume(s, v, index, at, limit, &lsn);
    if (s->code == LEVEE_OK && resumed && lsn == group.lsn) {
        s->facts->damaged_seals++; /* only idle seals hold no LSN: nothing is missing */
    } else if (s->code == LEVEE_OK) {
        note_bad(s, index, &group, resumed, lsn);
    }
    return resumed && s->code == LEVEE_OK;
}

void wal_scan_groups(struct wal_scan_state *s, uint32_t index, uint64_t limit)
{
    struct wal_segment *seg = &s->facts->segments[index];
    struct wal_window v;
    struct place at = {WAL_HEADER_BYTES, seg->first_lsn, seg->salt, true};
    bool more = true;

    s->code = wal_window_segment(&v, s->io, s->dir, seg, s->err);
    while (more && s->code == LEVEE_OK) {
        seg->end_offset = at.offset;
        seg->last_lsn = at.lsn - 1;
        seg->chain = at.chain;
        if (seg->used_offset < at.offset) {
            seg->used_offset = at.offset;
        }
        if (at.lsn >= limit) {
            break;
        }
        memset(&s->bad, 0, sizeof s->bad);
        s->bad.offset = at.offset;
        s->bad.lsn = at.lsn;
        enum group_result r = scan_group(s, &v, index, &at);
        if (r == GROUP_END && wal_scan_clean(s, &v, at.offset)) {
            break;
        }
        if (r != GROUP_OK && s->code == LEVEE_OK) {
            more = pass_bad_group(s, &v, index, &at, limit);
        }
    }
    wal_window_close(&v);
}

void wal_scan_startless(struct wal_scan_state *s, uint32_t index, uint64_t lsn, uint64_t limit)
{
    struct wal_segment *seg = &s->facts->segments[index];
    size_t entries_before = s->facts->entry_count;
    struct place group = {WAL_HEADER_BYTES, lsn, 0, false}, at = group;
    struct wal_header h;
    struct wal_window v;
    const uint8_t *raw;

    s->code = wal_window_segment(&v, s->io, s->dir, seg, s->err);
    if (s->code == LEVEE_OK) {
        memset(&s->bad, 0, sizeof s->bad);
        s->bad.offset = group.offset;
        s->bad.lsn = lsn;
        if (header_at(s, &v, seg->salt, group.offset, &h, &raw) == WAL_FRAME_OK) {
            (void)payload_at(s, &v, seg->salt, group.offset, &h); /* for the error's text */
        }
        look_ahead(s, &v, seg, &group, limit);
        uint64_t later;
        bool synced = resume(s, &v, index, &at, limit, &later);
        if (s->code == LEVEE_OK && lsn < limit) {
            note_bad(s, index, &group, synced, limit);
        }
    }
    s->facts->entry_count = entries_before;
    wal_window_close(&v);
}
