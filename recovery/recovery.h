/*
 * recovery: look, decide, then touch (design 4d.11). The one header of this folder; the table is in
 * recovery/README.md.
 *
 *   rec_dir_open      lock, read FORMAT            (nothing changes but the lock file)
 *   rec_look          log and checkpoints as facts (nothing changes)
 *   rec_plan          facts → plan                 (pure, total)
 *   rec_judge_sink    one sink's token → verdict   (pure, total)
 *   rec_apply         plan → a log and a set of versions that the runtime may act on; idempotent
 * under kills
 *
 * Replaying batches is the runtime's: it owns the graph and the sinks.
 */
#ifndef LEVEE_RECOVERY_H
#define LEVEE_RECOVERY_H

#include "checkpoint/ckpt.h"
#include "wal/wal.h"

/* ---- the directory (recovery/dir.c) ---- */
#define REC_FORMAT_VERSION 1u
struct rec_frozen { /* an option that may not change after creation */
    const char *name;
    uint64_t value;
};
struct rec_dir_options {
    const char *path;
    bool existing_only;
    const struct rec_frozen *frozen;
    size_t frozen_count;
};
struct rec_dir {
    struct io *io;
    char path[IO_PATH_MAX], wal[IO_PATH_MAX], ckpt[IO_PATH_MAX];
    struct io_lock *lock;
    struct uuid context;
    bool fresh; /* no FORMAT yet: holds nothing but our lock and temporary names */
};
/*
 * Locks (DIR_BUSY names the holder's pid), refuses what is not ours (DIR_FOREIGN: names what was
 * found), newer (DIR_NEWER: both versions and feature bits), missing (DIR_MISSING with
 * existing_only), unwritable (ACCESS), a frozen option that differs (DIR_OPTION with both values)
 * or a file system that is not safe for state (DIR_FS: NFS, CIFS …; tmpfs only warns). A refusal
 * leaves every byte as it was (the lock file, and the directory itself if it had to be made,
 * excepted).
 */
int rec_dir_open(struct io *io, const struct rec_dir_options *options, struct rec_dir *ret,
                 struct levee_error *err);
/* For a fresh directory: makes wal/ and checkpoint/, ends with FORMAT renamed into place, directory
 * and parent synced. */
int rec_dir_create(struct rec_dir *dir, const struct rec_dir_options *options,
                   struct levee_error *err);
void rec_dir_close(struct rec_dir *dir);

/* ---- facts (recovery/facts.c) ---- */
struct rec_facts {
    struct ckpt_store store;   /* every version listed; the ones tried are verified */
    struct ckpt_chain chain;   /* the longest chain that verifies; to == 0: none */
    uint64_t ckpt_batch;       /* chain.to */
    uint64_t ckpt_replay_from; /* 1 when there is no checkpoint */
    uint64_t ckpt_durable_lsn; /* durable LSN that checkpoint knew of; 0 none */
    uint64_t bad_versions;     /* set aside by the plan */
    uint64_t marked_batch;     /* highest CHECKPOINT_MARK in the log (seq); 0 none */
    struct wal_facts wal;
    uint64_t newest_open; /* highest batch id of a BATCH_OPEN frame kept, or ckpt_batch */
};
/* Meta keys that recovery reads: u64 LE each. The runtime writes them into every version. */
#define REC_META_REPLAY_FROM "replay-from"
#define REC_META_DURABLE_LSN "durable-lsn"
int rec_look(struct rec_dir *dir, const struct ckpt_format *format, struct rec_facts *ret,
             struct levee_error *err);
void rec_facts_release(struct rec_facts *facts);

/* ---- the plan (recovery/plan.c): pure ---- */
/* The evidence, boiled down so that it can be enumerated. */
struct rec_evidence {
    enum wal_bad_kind bad;
    bool bad_witnessed;    /* a later verified frame, or the checkpoint, proves it was durable */
    bool bad_group_sealed; /* its own group's seal verifies */
    bool bad_later_valid;
    bool bad_below_replay; /* all of it lies below the checkpoint's replay-from */
    bool lost_tail;        /* the log ends below the checkpoint's durable LSN */
    bool gap_at_start;     /* the oldest frame is above replay-from (something needed was trimmed or
                              lost) */
    bool log_empty;        /* no segment was ever written */
    bool have_chain;       /* a chain verifies */
    bool versions_exist;   /* files with version names exist, good or bad */
    bool checkpoint_marked; /* the log says that a checkpoint newer than the chain was published */
    bool foreign_log;       /* segments of another context */
};
enum rec_case { /* the lettered cases; see README */
                REC_R1_CLEAN = 1,
                REC_R2_STALE,
                REC_R3_TORN,
                REC_R4_OUT_OF_ORDER,
                REC_R5_CORRUPT,
                REC_R6_SEALED_UNWITNESSED,
                REC_R7_READ_ERROR,
                REC_R8_LOST_TAIL,
                REC_R9_SEQUENCE,
                REC_R10_HEADER,
                REC_R11_VOID_DAMAGE,
                REC_R12_FOREIGN,
                REC_R13_NO_CHECKPOINT,
                REC_R14_GAP,
                REC_R15_NEW
};
struct rec_verdict {
    enum rec_case which;
    int code;       /* LEVEE_OK: go on; else the refusal */
    bool drop_tail; /* from the first unwitnessed group that does not verify */
};
struct rec_verdict rec_decide(const struct rec_evidence *e);
const char *rec_case_text(enum rec_case c);

struct rec_plan {
    struct rec_evidence evidence;
    struct rec_verdict verdict;
    uint64_t keep_from,
        keep_to;    /* LSNs rewritten into the new first segment: witnessed + 1 … last kept */
    uint64_t epoch; /* the new one: above every segment's and `epoch_floor` */
};
void rec_evidence_of(const struct rec_facts *facts, struct rec_evidence *ret);
/* Fills the plan; LEVEE_OK or the refusal with what, where (file, offset, LSN), expected, found.
 * epoch_floor: highest epoch of any sink's token. */
int rec_plan(const struct rec_facts *facts, uint64_t epoch_floor, struct rec_plan *ret,
             struct levee_error *err);

/* ---- sinks (recovery/plan.c): pure ---- */
struct rec_sink_fact {
    const char *uid;
    enum rec_token {
        REC_TOKEN_NEVER,
        REC_TOKEN_FOUND,
        REC_TOKEN_LOST,
        REC_TOKEN_FOREIGN,
        REC_TOKEN_UNREACHABLE
    } state;
    bool keeps_tokens; /* transactional or idempotent with a token */
    bool added;        /* not in the stored graph: starts at newest_open */
    uint64_t token_batch, token_epoch;
    bool in_part; /* token_batch is there only in part: it counts as opened, not as taken */
    uint64_t
        confirmed; /* newest batch with output that log or checkpoint confirmed for it; 0 none */
    uint64_t newest_open;
    uint64_t epoch_max; /* of our log: a token of a higher epoch was written by a later life */
};
enum rec_sink_case {
    REC_SINK_NEW,
    REC_SINK_RESUME,
    REC_SINK_AHEAD,
    REC_SINK_BEHIND,
    REC_SINK_LOST,
    REC_SINK_FOREIGN_,
    REC_SINK_NO_TOKEN,
    REC_SINK_WAIT
};
struct rec_sink_verdict {
    enum rec_sink_case which;
    int code;
    uint64_t skip_to; /* batches up to this one are not written to it again */
};
struct rec_sink_verdict rec_judge_sink(const struct rec_sink_fact *f);
/* The refusal as a full error. */
int rec_sink_error(const struct rec_sink_fact *f, const struct rec_sink_verdict *v,
                   struct levee_error *err);

/* ---- apply (recovery/apply.c) ---- */
struct rec_report {
    uint64_t dropped_groups, dropped_bytes, set_aside, rewritten_frames;
    char text[256]; /* one line for people; "" when there is nothing to say */
};
/*
 * Temporary names away, new first segment (4d.2: the first durable act), void behind it, bad
 * versions into quarantine, retention. Afterwards facts->wal describes the log in force. Everything
 * is durable when it returns.
 */
int rec_apply(struct rec_dir *dir, const struct wal_options *wal, const struct rec_plan *plan,
              struct rec_facts *facts, struct rec_report *ret, struct levee_error *err);

#endif
