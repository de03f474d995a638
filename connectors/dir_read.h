/* One file, read in pieces and cut into records. Memory: a piece and the longest record. */
#ifndef LEVEE_CONNECTORS_DIR_READ_H
#define LEVEE_CONNECTORS_DIR_READ_H

#include "connectors/gzip.h"

struct dir_format {
    enum levee_file_format format;
    uint32_t record_bytes, record_max;
};
struct dir_reader {
    struct io *io;
    struct io_file *file;
    const struct dir_format *format;
    const char *path;         /* for errors; the caller's */
    struct io_stat begun;     /* the file as it was when it was opened */
    uint64_t raw;             /* bytes of the file that were read */
    struct hash_stream *hash; /* of those */
    struct gunzip *gz;        /* NULL: not compressed */
    struct buf packed;        /* read and not yet decompressed */
    size_t packed_used;
    struct buf in; /* decompressed, from `offset` on; the first `used` are given out */
    size_t used;
    uint64_t offset;
    size_t searched; /* of in: bytes that hold no end of line */
    bool ended;      /* everything is in `in` */
    bool given;      /* of whole files: it was given out */
};

/* Takes file over, also when it fails. */
int dir_reader_open(struct dir_reader *r, struct io *io, struct io_file *file, const char *path,
                    bool compressed, const struct dir_format *format, struct levee_error *err);
void dir_reader_close(struct dir_reader *r);
/* Reads a piece more, and finds out whether the file is still the one it was. What dir_reader_next
 * gave before is void. Errors: FILE_CHANGED, RECORD_DAMAGED, IO, NOMEM. */
int dir_reader_fill(struct dir_reader *r, struct levee_error *err);
/* The next record and its offset; *ret_more false: read on, or at the end if r->ended. Errors:
 * RECORD_TOO_LONG, RECORD_DAMAGED. */
int dir_reader_next(struct dir_reader *r, struct levee_slice *ret, uint64_t *ret_offset,
                    bool *ret_more, struct levee_error *err);
/* Takes back what was given out from this offset on. */
void dir_reader_back(struct dir_reader *r, uint64_t offset);
uint64_t dir_reader_length(const struct dir_reader *r); /* decompressed, so far */
uint64_t dir_reader_hash(const struct dir_reader *r);

#endif
