/* Private to wal/: the scanner's state, shared by wal_window.c, wal_groups.c and wal_scan.c. */
#ifndef LEVEE_WAL_SCAN_H
#define LEVEE_WAL_SCAN_H

#include "wal/wal_impl.h"

struct wal_window {
    struct io *io;
    struct io_file *file;
    uint64_t file_size, base;
    size_t len;
    struct buf bytes;
    bool recycled; /* blocks behind the end hold a former life's bytes … */
    uint64_t salt;
    struct buf imprint; /* … which are told by their hashes */
};
int wal_window_open(struct wal_window *v, struct io *io, const char *dir, const char *name,
                    struct levee_error *err);
void wal_window_close(struct wal_window *v);
/* len bytes at offset; NOTFOUND: the file ends before. The view is valid until the next call. */
int wal_window_get(struct wal_window *v, uint64_t offset, size_t len, const uint8_t **ret);
/* Opens a segment of which the header is known, with its imprint if it has one. */
int wal_window_segment(struct wal_window *v, struct io *io, const char *dir,
                       const struct wal_segment *seg, struct levee_error *err);
/* Makes the window, over the file of a recycled segment, end where its groups may end, and reads
 * the imprint behind; NOMEM, CRASHED. */
int wal_window_imprint(struct wal_window *v, uint64_t size, uint64_t salt);
/* Is this block as it was when the segment was made, as far as anybody can tell? p: its bytes, up
 * to the end of the file. */
bool wal_window_blank(const struct wal_window *v, uint64_t offset, const uint8_t *p, size_t len);

bool wal_scan_fatal(int code); /* no fact about the disk: the scan itself cannot go on */
bool wal_is_zero(const uint8_t *p, size_t len);

struct wal_scan_state {
    struct io *io;
    const char *dir;
    struct wal_facts *facts;
    size_t entry_cap, bad_cap, segment_cap;
    struct wal_bad bad; /* the group being parsed */
    int code;           /* NOMEM, CRASHED: give up */
    struct levee_error *err;
};
/* Blank from here to the end? What cannot be read is not known to be. */
bool wal_scan_clean(struct wal_scan_state *s, struct wal_window *v, uint64_t from);
/* One segment's groups with LSNs below limit (its successor's first LSN): entries, bad places,
 * witnesses. */
void wal_scan_groups(struct wal_scan_state *s, uint32_t index, uint64_t limit);
/* A segment that should begin with lsn, but its SEGMENT_START does not verify: nothing in it is in
 * force, yet it holds witnesses. A bad place, unless the limit says that nothing is missing. */
void wal_scan_startless(struct wal_scan_state *s, uint32_t index, uint64_t lsn, uint64_t limit);

#endif
