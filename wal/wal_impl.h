/* Private to wal/: what writer, scanner and rebuild share. */
#ifndef LEVEE_WAL_IMPL_H
#define LEVEE_WAL_IMPL_H

#include "wal/wal.h"

#define WAL_FORMAT_MAJOR 1u
#define WAL_FORMAT_MINOR 0u
#define WAL_START_BYTES  40u /* payload of SEGMENT_START */
#define WAL_SEAL_BYTES   32u /* payload of GROUP_SEAL and IDLE_SEAL */
#define WAL_NAME_BYTES   24u

struct wal_segment_header {
    struct uuid context;
    uint64_t number, salt, size;
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
