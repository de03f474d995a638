/*
 * wal: the write-ahead log. The one header of this folder; the byte format is in wal/README.md.
 *
 * Two kinds of frames. *Data* frames carry an LSN each (strictly +1 over the life of the
 * directory). *Structural* frames (seals, pads, segment start) organise a segment, consume no LSN
 * and are made by the writer itself. Every frame's hashes are bound to the segment's salt and the
 * frame's file offset; a data frame's also to its LSN. A group is what one sync makes durable:
 * [SEGMENT_START?] data frames… GROUP_SEAL PAD, beginning on a 4 KiB boundary.
 *
 * Witness: each frame carries the durable LSN known when it was written. A group is *witnessed*
 * when a verified frame in a later group (or the checkpoint in use) carries a durable LSN at or
 * above its last LSN.
 */
#ifndef LEVEE_WAL_H
#define LEVEE_WAL_H

#include "io/io.h"

struct wal;

enum wal_type {
    WAL_BLOCK = 1, /* records of one producer: runtime/block.h */
    WAL_BATCH_OPEN = 2,
    WAL_BATCH_RESULT = 3,
    WAL_BATCH_DONE = 4, /* a hint, never waited for */
    WAL_SINK_INIT = 5,
    WAL_SOURCE_INIT = 6, /* resolved start / end positions, byes */
    WAL_CHECKPOINT_MARK = 7,
    WAL_SINK_NOTE = 8, /* what a sink wants remembered of its place */
    WAL_DATA_MAX = 15,
    /* structural */
    WAL_SEGMENT_START =
        16, /* epoch, first LSN, predecessor {number, end offset, last LSN, chain} */
    WAL_GROUP_SEAL = 17,
    WAL_IDLE_SEAL = 18,
    WAL_PAD = 19
};

#define WAL_GROUP_ALIGN     4096u /* the device's unit of damage (design 4d.1) */
#define WAL_HEADER_BYTES    8192u /* two copies of the segment header, one block each */
#define WAL_FRAME_HEADER    64u
#define WAL_SEGMENT_MIN     (64u << 10)
#define WAL_SEGMENT_DEFAULT (64u << 20)
#define WAL_GROUP_BYTES_MAX (4u << 20)
/* Largest payload for a segment size. */
size_t wal_payload_max(uint64_t segment_bytes);

/*
 * One data frame on its way into the log. The owner keeps it (and the payload) alive and unchanged
 * until `done` was called, exactly once, on the log lane and in the order of LSNs (from wal_close
 * for what the log lane could not finish): LEVEE_OK = durable; anything else: the log has failed or
 * was closed without room, nothing later becomes durable. Payload may be in up to two pieces (a
 * head the owner encodes late, and the bulk).
 */
struct wal_frame {
    struct link link;
    uint16_t type, flags;
    uint32_t stream; /* source or sink ordinal; 0 = none */
    uint64_t
        seq; /* source sequence or batch id: for people and tools, verified but not interpreted */
    struct levee_slice payload[2];
    uint64_t lsn; /* set by wal_append */
    void (*done)(struct wal_frame *frame, int code);
    void *owner;
    uint8_t header[WAL_FRAME_HEADER]; /* the writer's */
};

struct wal_options {
    const char *dir; /* the wal directory itself; copied */
    struct uuid context;
    uint64_t segment_bytes;   /* 0: default; power of two >= WAL_SEGMENT_MIN */
    uint64_t group_bytes_max; /* 0: WAL_GROUP_BYTES_MAX; capped to what a segment holds */
    uint64_t idle_seal_ns;    /* quiet time before an idle seal; 0: one second */
    uint32_t spares;          /* segments made ahead; 0: 2 */
    /* Called on the log lane before each group is cut: the owner may wal_append what it still holds
     * open (natural batching: blocks are sealed when the log is ready for them). May be NULL. */
    void (*gather)(void *arg);
    void *gather_arg;
    /* The first failure, once, on the log or helper lane: nothing is acknowledged any more. */
    void (*failed)(void *arg, const struct levee_error *err);
    /* Full disk while making spares: true = no room for the next segment (appends queue up and
     * wait: backpressure), false = room again. On the helper lane. May be NULL. */
    void (*space)(void *arg, bool short_of_space);
    void *failed_arg;
};

/* ---- what is on disk: facts, gathered read-only (wal_scan.c) ---- */
struct wal_entry { /* one verified data frame, in LSN order, void ones left out */
    uint64_t lsn;
    uint64_t seq;
    uint32_t segment; /* index into wal_facts.segments */
    uint32_t len;     /* payload bytes */
    uint32_t offset;  /* of the frame header in the segment */
    uint32_t stream;
    uint16_t type, flags;
};

enum wal_bad_kind { /* the first frame that does not verify after the last good one (evidence for
                       R1–R9) */
                    WAL_BAD_NONE = 0, /* clean end: blank from here to the end of the segment */
                    WAL_BAD_STALE,    /* well-formed under another salt */
                    WAL_BAD_FRAME,    /* damaged or partial */
                    WAL_BAD_READ,     /* EIO */
                    WAL_BAD_SEQUENCE, /* verifies, but LSN gap / duplicate or chain mismatch */
                    WAL_BAD_HEADER,   /* both copies of a segment header are bad */
                    WAL_BAD_MISSING /* a predecessor named by a segment is absent or ends before its
                                       recorded end */
};

struct wal_bad {
    enum wal_bad_kind kind;
    char segment[64]; /* file name */
    uint64_t offset;
    uint64_t lsn;       /* LSN expected at this place */
    uint64_t group_lsn; /* first LSN of the group it lies in */
    uint64_t group_offset;
    uint64_t end_lsn; /* first LSN in force behind it; UINT64_MAX: none */
    uint32_t segment_index;
    bool group_seal_ok;       /* its own group's seal verifies */
    bool later_valid;         /* a verified frame lies after it */
    bool synced;              /* a whole group follows in its segment: it had been synced (W3) */
    bool witnessed;           /* … and carries durable LSN >= lsn: acknowledged data is damaged */
    uint64_t witness_lsn;     /* the highest durable LSN seen after it */
    uint64_t expected, found; /* hashes or numbers, for the error text */
};

struct wal_segment {
    char name[64];
    uint64_t number, salt, size;
    uint64_t first_lsn; /* 0: unused spare */
    uint64_t last_lsn;  /* last data LSN in force (before the successor's first), first_lsn - 1 when
                           none */
    uint64_t end_offset; /* end of the last verified group in force */
    uint64_t epoch;
    uint64_t chain;       /* after the last frame in force */
    uint64_t used_offset; /* everything at and behind it is blank as far as read (for quarantine) */
    uint64_t groups_end;  /* recycled: where groups may end and the imprint begins */
    uint64_t predecessor, predecessor_last; /* what its SEGMENT_START says */
    bool spare;                             /* header good, nothing else in it */
    bool header_bad;                        /* both copies */
    bool torn;            /* bytes that do not verify lie behind end_offset (or it is all of it) */
    bool gone;            /* removed by rebuild or clean */
    bool header_repaired; /* R10: copy 1 was bad */
    bool recycled;        /* the file had a former life, of which bytes may still lie in it */
    bool void_tail;       /* bytes lie behind end_offset that a successor has made void */
};

struct wal_facts {
    struct wal_segment *segments; /* by number, oldest first, spares included */
    size_t segment_count;
    struct wal_entry *entries;
    size_t entry_count;
    uint64_t first_lsn; /* of the oldest retained frame; 1 for a log never written; next_lsn when
                           empty */
    uint64_t next_lsn;  /* last verified + 1 */
    uint64_t witnessed_lsn; /* w: the highest durable LSN carried by a verified frame */
    uint64_t epoch_max;     /* of any readable segment */
    uint64_t number_max;
    uint64_t damaged_seals; /* idle seals that do not verify while the log goes on behind them
                               without a gap: no harm, but the disk is not what it should be */
    struct wal_bad
        *bads; /* every place that does not verify, in log order; the last one may be the tail */
    size_t bad_count;
    struct wal_bad bad; /* the first of them; kind NONE: everything verifies */
    size_t temp_cap;
    struct io_list temps; /* temporary names to remove */
    struct uuid foreign;  /* context id found when it is not ours */
    bool has_foreign;
};

/*
 * Reads and verifies the whole log without changing a byte. `w_floor`: a durable LSN known from
 * elsewhere (the checkpoint in use; 0 none): it is a witness too. Damage is a fact, not an error;
 * errors are NOMEM, ACCESS, DIR_NEWER. Blocks: reads every byte. Thread: any.
 */
int wal_scan(struct io *io, const char *dir, const struct uuid *context, uint64_t w_floor,
             struct wal_facts *ret, struct levee_error *err);
void wal_facts_release(struct wal_facts *facts);
/* First entry with lsn >= lsn (== entry_count if none). */
size_t wal_facts_find(const struct wal_facts *facts, uint64_t lsn);

/* Reads one payload again and verifies it. buf is reused (cleared first). */
int wal_read_entry(struct io *io, const char *dir, const struct wal_facts *facts,
                   const struct wal_entry *entry, struct buf *buf, struct levee_error *err);

/*
 * Recovery's first durable act (design 4d.2): builds a new first segment under a temporary name —
 * SEGMENT_START {epoch, first LSN keep_from, predecessor's end} and every verified data frame with
 * LSN in [keep_from, keep_to] again — then sync, rename, sync directory. keep_from = witnessed + 1;
 * keep_to = last frame to keep. Afterwards wal_facts describes the new state (entries point into
 * the new segment, older segments end at keep_from - 1). The file is as large as it must be, at
 * least WAL_SEGMENT_MIN, at most `segment_bytes` unless the frames need more. ENOSPC: unused spares
 * are removed and it is tried once more.
 */
int wal_rebuild(struct io *io, const struct wal_options *options, struct wal_facts *facts,
                uint64_t keep_from, uint64_t keep_to, uint64_t epoch, struct levee_error *err);
/* Quarantines void bytes that did not verify, gives void tails back (truncate; unlink when nothing
 * is left), removes temporary names and unused spares. Idempotent. After wal_rebuild. */
int wal_clean(struct io *io, const struct wal_options *options, struct wal_facts *facts,
              struct levee_error *err);

/* ---- the writer ---- */
/* Opens the log for appending after wal_rebuild (or on a new, empty directory: then facts may be
 * NULL and the first segment is made here with epoch 1, LSN 1, durable before it returns). Starts
 * the log lane and the helper lane. */
int wal_open(struct io *io, const struct wal_options *options, const struct wal_facts *facts,
             struct wal **ret, struct levee_error *err);
/* Queues frames (linked by link, in order) and assigns their LSNs. Never blocks on the disk.
 * Thread: any. Errors: WAL_FAILED (sticky), WAL_TOO_BIG, STOPPED: then no done is called for these
 * frames. */
int wal_append(struct wal *wal, struct wal_frame *first, struct levee_error *err);
/* Asks for a group although nothing is queued: the gather hook has something. Thread: any. */
void wal_kick(struct wal *wal);
uint64_t wal_next_lsn(const struct wal *wal);    /* thread: any */
uint64_t wal_durable_lsn(const struct wal *wal); /* thread: any */
uint64_t wal_witnessed_lsn(
    const struct wal *wal); /* durable and witnessed by a later synced group; thread: any */
uint64_t wal_epoch(const struct wal *wal);
uint64_t
wal_bytes(const struct wal *wal); /* bytes of all segments on disk, spares included; thread: any */
/* Takes whole segments all of whose frames are below lsn out of the log, oldest first; the segment
 * being written stays. They are used again or removed. On the helper lane, returns at once. */
void wal_trim(struct wal *wal, uint64_t lsn);
/* Gives back the room of trimmed segments that are kept to be used again: the disk is full. On the
 * helper lane, returns at once. */
void wal_give_back(struct wal *wal);
/* Writes what is queued, seals idle, ends both lanes. Every frame's done has been called when it
 * returns. NULL is fine. */
void wal_close(struct wal *wal);

struct wal_stats {
    uint64_t frames, groups, syncs, idle_seals, rolls, payload_bytes, written_bytes, segments;
    uint64_t recycled; /* spares that were made of trimmed segments */
};
void wal_stats(const struct wal *wal, struct wal_stats *ret);

/* ---- codec, shared by writer, scanner, rebuild and tools (wal_frame.c) ---- */
struct wal_header { /* a decoded frame header */
    uint16_t type, flags;
    uint32_t len, stream;
    uint64_t lsn, seq, durable_lsn, chain, payload_hash;
};
enum wal_verdict { WAL_FRAME_OK, WAL_FRAME_ZERO, WAL_FRAME_STALE, WAL_FRAME_BAD };
/* Encodes and hashes a header; returns the new chain value. */
uint64_t wal_header_encode(uint8_t out[WAL_FRAME_HEADER], const struct wal_header *h, uint64_t salt,
                           uint64_t offset, uint64_t chain);
enum wal_verdict wal_header_decode(const uint8_t in[WAL_FRAME_HEADER], uint64_t salt,
                                   uint64_t offset, struct wal_header *ret);
uint64_t wal_payload_hash(const struct levee_slice payload[2], uint64_t salt, uint64_t lsn);

#endif
