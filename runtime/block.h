/*
 * A block: records of one producer, encoded once, straight into the payload of the log frame that
 * makes them durable. Views of the records point into it, so it stays pinned until the last batch
 * that uses it is done.
 *
 * Payload: u8 version (1), u8 flags, u16 partition, u32 count, u64 first sequence, u64 last
 * sequence, i64 base time, varint + producer id; then per record: [zigzag varint of time - previous
 * time] [varint of sequence - previous - 1] [key: varint(len + 1)] value: varint(len + 1), bytes (0
 * = absent). The bracketed fields are there when the block's flag says so.
 *
 * In positions mode the log gets the header with RANGE set, and instead of the records: u64 their
 * XXH3-64, varint their length, u64 hash of the last record (0: not kept). The block in memory is
 * like any other.
 */
#ifndef LEVEE_RT_BLOCK_H
#define LEVEE_RT_BLOCK_H

#include "levee/connect.h"
#include "wal/wal.h"

enum rt_block_flags {
    RT_BLOCK_KEYS = 1,     /* some record has a key */
    RT_BLOCK_TIMES = 2,    /* some record has an event time */
    RT_BLOCK_HOLES = 4,    /* sequences are listed one by one */
    RT_BLOCK_NUMBERED = 8, /* a reliable producer: sequences count */
    RT_BLOCK_BYE = 16,     /* the producer has left: no records */
    RT_BLOCK_GAP = 64,     /* the source skipped these sequences for good: no records */
    RT_BLOCK_RANGE = 32    /* only in the log: the records are at their source (positions mode) */
};

struct rt_block {
    struct link link; /* in its source's queue, in LSN order */
    struct wal_frame frame;
    struct buf payload;
    uint32_t source; /* index of the source in the graph */
    uint32_t count;
    uint16_t partition;
    uint8_t flags;
    uint64_t first_seq, last_seq; /* 0 when unnumbered */
    struct levee_slice producer;  /* view into payload */
    size_t records_offset;        /* where the records begin in payload */
    uint64_t lsn;
    uint64_t ticket;    /* of its inlet */
    int64_t last_time;  /* of the newest record, while the block is being filled and afterwards */
    size_t last_offset; /* where that record begins in payload; 0: not known (read back) */
    bool elsewhere;     /* recovery: the records are at their source; these say what they must be */
    uint64_t records_hash, records_len, last_hash;
    struct buf logged; /* positions mode: what goes into the log */
    bool on_disk; /* recovery: the payload was not kept and is read again when its batch opens */
};

struct rt_block_cursor {
    const uint8_t *p, *end;
    uint32_t left;
    uint8_t flags;
    int64_t time;
    uint64_t seq; /* of the record just read */
};

/* Reads a payload's header into block (producer and payload view set); WAL_CORRUPT when it does not
 * parse. */
int rt_block_parse(struct rt_block *block, struct levee_error *err);
void rt_block_cursor_init(struct rt_block_cursor *c, const struct rt_block *block);
/* Next record; false at the end. The payload was verified by hash, and every length is checked all
 * the same. */
bool rt_block_next(struct rt_block_cursor *c, struct levee_record *ret);

/* Of all records as they are encoded. */
uint64_t rt_block_records_hash(const struct rt_block *b);
/* After the seal: the frame gets the records' place instead of the records. last_hash: of the last
 * record, or 0. false: no memory. */
bool rt_block_seal_range(struct rt_block *b, uint64_t last_hash);
/* levee_record_hash of the last record; 0: the block has none. */
uint64_t rt_block_last_hash(const struct rt_block *block);

/* A new open block; NULL: no memory. max: payload bytes. */
struct rt_block *rt_block_new(uint32_t source, uint16_t partition, uint8_t flags,
                              struct levee_slice producer, size_t size_hint);
/* Adds a record (its only copy). false: no memory (the block is unchanged). */
bool rt_block_add(struct rt_block *b, const struct levee_record *r, uint64_t seq);
/* Writes count, sequences and times into the header; the frame is ready for wal_append. */
void rt_block_seal(struct rt_block *b);
void rt_block_free(struct rt_block *b);

#endif
