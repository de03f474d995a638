/*
 * The imprint: what lay in a file when it became a segment once more.
 *
 * Filling a segment with zeros makes every byte of the log cost two on the disk. So a trimmed
 * segment is used again as it is: fresh headers, and the bytes of its former life stay until the
 * log comes to write over them. None of them verifies, because a new salt is in every hash; but the
 * scan also wants to know where the log has not written yet. In a file of zeros it sees that. In a
 * recycled one the imprint says it: the hash of every block as it was, made when nothing else could
 * write to the file, durable before the file has a name. A block that still has this hash is
 * *blank*, and means what a block of zeros means in a new file. That is all that the scan ever asks
 * of a block that does not verify, so all its evidence is the same for both kinds of files.
 *
 * A former life cannot answer that by its own frames: the log that is written over it ends in the
 * middle of one of its payloads, whose header, with the hash, is gone.
 *
 * The imprint lies behind the last block of groups, 8 bytes per block, the two of the headers
 * included. It needs neither copy nor hash: where it is damaged, or cannot be read, a block is no
 * longer known to be blank. Then an end that is clean looks torn, and is cut where it would have
 * been cut anyway. A block that the log wrote with the very bytes that were there counts as blank,
 * as one of zeros does in a new file; what makes a group a group is never such a block, because its
 * hashes are salted.
 */
#include "wal/wal_scan.h"

#define CHUNK (1u << 20) /* read at once; a multiple of a block */

static uint64_t block_hash(const uint8_t *block, uint64_t salt, uint64_t offset)
{
    return hash64(block, WAL_GROUP_ALIGN, salt ^ offset);
}

/* ---- taking it ---- */

int wal_imprint_take(struct io *io, struct io_file *f, const struct wal_segment_header *h,
                     struct buf *ret, struct levee_error *err)
{
    uint8_t *chunk = mem_alloc(CHUNK);
    int code = LEVEE_OK;

    buf_clear(ret);
    if (!chunk || !buf_reserve(ret, (size_t)wal_imprint_bytes(h->size))) {
        mem_free(chunk);
        return err_nomem(err, CHUNK);
    }
    ret->len = (size_t)wal_imprint_bytes(h->size);
    memset(ret->data, 0, ret->len);
    for (uint64_t at = 0; at < h->size && code == LEVEE_OK; at += CHUNK) {
        uint64_t n = h->size - at < CHUNK ? h->size - at : CHUNK;
        code = io_pread_all(f, io, chunk, (size_t)n, at, err);
        for (uint64_t i = 0; i < n && code == LEVEE_OK; i += WAL_GROUP_ALIGN) {
            put_le64(ret->data + (at + i) / WAL_GROUP_ALIGN * 8,
                     block_hash(chunk + i, h->salt, at + i));
        }
    }
    mem_free(chunk);
    return code;
}

/* ---- asking it ---- */

int wal_window_imprint(struct wal_window *v, uint64_t size, uint64_t salt)
{
    size_t len = (size_t)wal_imprint_bytes(size), got = 0;

    v->recycled = true;
    v->salt = salt;
    if (v->file_size <= size) {
        return LEVEE_OK; /* recovery has cut it where its groups end: nothing lies behind */
    }
    v->file_size = size;
    if (!buf_reserve(&v->imprint, len)) {
        v->imprint.failed = false;
        return LEVEE_ENOMEM;
    }
    int code = v->io->ops->pread(v->file, v->imprint.data, len, size, &got, NULL);
    v->imprint.len = code == LEVEE_OK ? got : 0;
    return wal_scan_fatal(code) ? code : LEVEE_OK;
}

bool wal_window_blank(const struct wal_window *v, uint64_t offset, const uint8_t *p, size_t len)
{
    uint64_t entry = offset / WAL_GROUP_ALIGN * 8;

    if (!v->recycled) {
        return wal_is_zero(p, len);
    }
    return len == WAL_GROUP_ALIGN && entry + 8 <= v->imprint.len &&
           get_le64(v->imprint.data + entry) == block_hash(p, v->salt, offset);
}
