/*
 * The codec of frames: 64 bytes of header, payload, zeros up to the next multiple of 8. Every
 * header hash is bound to the segment's salt and the frame's file offset, every payload hash to
 * salt and LSN: bytes of another file, place or life never verify.
 */
#include "wal/wal_impl.h"

#define FRAME_MAGIC 0x3146574cu /* "LWF1": header version 1 */

_Static_assert(WAL_FRAME_HEADER == 64, "the header's layout is fixed");

size_t wal_payload_max(uint64_t segment_bytes)
{
    /* Beside it in the segment: the headers, and one block each for SEGMENT_START with the frame's
     * own header, and seal with pad. */
    return (size_t)(segment_bytes - WAL_HEADER_BYTES - (uint64_t)2 * WAL_GROUP_ALIGN);
}

static uint64_t header_seed(uint64_t salt, uint64_t offset)
{
    return salt ^
           (offset + 1) * 0x9e3779b97f4a7c15u; /* the golden ratio spreads neighbouring offsets */
}

uint64_t wal_payload_hash(const struct levee_slice payload[2], uint64_t salt, uint64_t lsn)
{
    return hash64_two(payload[0], payload[1], salt ^ lsn);
}

uint64_t wal_header_encode(uint8_t out[WAL_FRAME_HEADER], const struct wal_header *h, uint64_t salt,
                           uint64_t offset, uint64_t chain)
{
    put_le32(out, FRAME_MAGIC);
    put_le16(out + 4, h->type);
    put_le16(out + 6, h->flags);
    put_le32(out + 8, h->len);
    put_le32(out + 12, h->stream);
    put_le64(out + 16, h->lsn);
    put_le64(out + 24, h->seq);
    put_le64(out + 32, h->durable_lsn);
    uint64_t next = hash64(out, 40, chain);
    put_le64(out + 40, next);
    put_le64(out + 48, h->payload_hash);
    put_le64(out + 56, hash64(out, 56, header_seed(salt, offset)));
    return next;
}

enum wal_verdict wal_header_decode(const uint8_t in[WAL_FRAME_HEADER], uint64_t salt,
                                   uint64_t offset, struct wal_header *ret)
{
    static const uint8_t zero[WAL_FRAME_HEADER];

    if (memcmp(in, zero, sizeof zero) == 0) {
        return WAL_FRAME_ZERO;
    }
    if (get_le32(in) != FRAME_MAGIC) {
        return WAL_FRAME_BAD;
    }
    if (get_le64(in + 56) != hash64(in, 56, header_seed(salt, offset))) {
        return WAL_FRAME_STALE; /* another salt or offset, or damage: nobody can tell */
    }
    *ret = (struct wal_header){
        .type = get_le16(in + 4),
        .flags = get_le16(in + 6),
        .len = get_le32(in + 8),
        .stream = get_le32(in + 12),
        .lsn = get_le64(in + 16),
        .seq = get_le64(in + 24),
        .durable_lsn = get_le64(in + 32),
        .chain = get_le64(in + 40),
        .payload_hash = get_le64(in + 48),
    };
    return WAL_FRAME_OK;
}

void wal_start_encode(uint8_t out[WAL_START_BYTES], const struct wal_start *s)
{
    put_le64(out, s->epoch);
    put_le64(out + 8, s->first_lsn);
    put_le64(out + 16, s->predecessor);
    put_le64(out + 24, s->predecessor_end);
    put_le64(out + 32, s->predecessor_last);
}

void wal_start_decode(const uint8_t in[WAL_START_BYTES], struct wal_start *ret)
{
    *ret = (struct wal_start){get_le64(in), get_le64(in + 8), get_le64(in + 16), get_le64(in + 24),
                              get_le64(in + 32)};
}
