/* Private to wal/: what writer, scanner and rebuild share. */
#ifndef LEVEE_WAL_IMPL_H
#define LEVEE_WAL_IMPL_H

#include "wal/wal.h"

#define WAL_FORMAT_MAJOR 1u
#define WAL_FORMAT_MINOR 0u
#define WAL_START_BYTES  40u /* payload of SEGMENT_START */
#define WAL_SEAL_BYTES   32u /* payload of GROUP_SEAL and IDLE_SEAL */
#define WAL_NAME_BYTES   24u
#define WAL_RECYCLED     1u /* incompatible feature: blank is what the imprint says, not zeros */

struct wal_segment_header {
    struct uuid context;
    uint64_t number, salt, size;
    uint64_t former; /* recycled: the number that the file had in its former life; else 0 */
    uint16_t major, minor;
    uint32_t incompatible, ro_compatible;
};
enum wal_header_state { WAL_HEADER_OK, WAL_HEADER_REPAIRED, WAL_HEADER_BAD, WAL_HEADER_NEWER };

void wal_segment_header_encode(uint8_t out[WAL_GROUP_ALIGN], const struct wal_segment_header *h);
enum wal_header_state wal_segment_header_read(struct io *io, struct io_file *f,
                                              struct wal_segment_header *ret, int *ret_code,
                                              struct levee_error *err);
void wal_segment_name(char out[WAL_NAME_BYTES], uint64_t number);
bool wal_segment_number(const char *name, uint64_t *ret);

/* Makes a zero-filled segment under its temporary name, headers and first group (may be empty)
 * written, synced. The open file is returned; publish renames it. */
int wal_segment_create(struct io *io, const char *dir, const struct wal_segment_header *h,
                       struct levee_slice first_group, struct io_file **ret,
                       struct levee_error *err);
int wal_segment_publish(struct io *io, const char *dir, uint64_t number, bool rebuild,
                        struct levee_error *err);

/* The imprint of a segment of this size, behind it in the file (wal_imprint.c). */
static inline uint64_t wal_imprint_bytes(uint64_t size)
{
    return align_up(size / WAL_GROUP_ALIGN * 8, WAL_GROUP_ALIGN);
}
/* Hashes all blocks of a file that is to become the segment h. */
int wal_imprint_take(struct io *io, struct io_file *f, const struct wal_segment_header *h,
                     struct buf *ret, struct levee_error *err);

/* Takes a trimmed segment's name and leaves it a temporary one: after the next sync of the
 * directory the file is no part of the log. */
int wal_segment_retire(struct io *io, const char *dir, uint64_t number, struct levee_error *err);
/* Removes a retired one. */
int wal_segment_drop(struct io *io, const char *dir, uint64_t number, struct levee_error *err);
/* Makes the retired file h->former, of h->size bytes or more, the spare h->number: imprint and
 * headers, sync, rename, sync of the directory. NOTFOUND: the file cannot be used again, which is
 * no harm. On any failure it is gone, or the next start removes it. */
int wal_segment_recycle(struct io *io, const char *dir, const struct wal_segment_header *h,
                        struct io_file **ret, struct levee_error *err);

/* SEGMENT_START's payload. */
struct wal_start {
    uint64_t epoch, first_lsn, predecessor, predecessor_end, predecessor_last;
};
void wal_start_encode(uint8_t out[WAL_START_BYTES], const struct wal_start *s);
void wal_start_decode(const uint8_t in[WAL_START_BYTES], struct wal_start *ret);

/* Bytes of a frame in the file. */
static inline uint64_t wal_frame_bytes(uint64_t payload)
{
    return WAL_FRAME_HEADER + align_up(payload, 8);
}
/* Bytes of the PAD frame (header included) after `end` bytes of a group; 0: none needed. */
static inline uint64_t wal_pad_bytes(uint64_t end)
{
    uint64_t left = align_up(end, WAL_GROUP_ALIGN) - end;

    return left == 0 ? 0 : left >= WAL_FRAME_HEADER ? left : left + WAL_GROUP_ALIGN;
}

#endif
