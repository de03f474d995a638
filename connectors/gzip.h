/* Decompression of gzip data of any number of members, in pieces. Without zlib: UNSUPPORTED. */
#ifndef LEVEE_CONNECTORS_GZIP_H
#define LEVEE_CONNECTORS_GZIP_H

#include "runtime/context.h"

struct gunzip;

int gunzip_new(struct gunzip **ret, struct levee_error *err);
void gunzip_free(struct gunzip *g);
/* Appends up to `room` bytes to out, of what `in` begins with; *ret_used of it are done with.
 * Errors: RECORD_DAMAGED, NOMEM. */
int gunzip_some(struct gunzip *g, struct levee_slice in, size_t room, struct buf *out,
                size_t *ret_used, struct levee_error *err);
/* The input may end here: between two members. */
bool gunzip_whole(const struct gunzip *g);

#endif
