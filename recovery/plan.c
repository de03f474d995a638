/*
 * The plan: pure functions from evidence to verdict. The table below is read from top to bottom and
 * the first row that matches decides; the last row matches everything, so the table is total.
 * test_rec_plan enumerates all evidence and holds every verdict against the rules' prose.
 */
#include "recovery/recovery.h"

/* Conditions of a row: N does not matter. */
enum tri { ANY, YES, NO };

struct row {
    enum rec_case which;
    int code;
    bool drop_tail;
    enum tri foreign, log_empty, have_chain, versions_exist, marked, gap, lost_tail;
    unsigned bads; /* bit set of wal_bad_kind; 0: any */
    enum tri witnessed, below_replay, sealed, later_valid;
};

#define BIT(kind) (1u << (kind))
#define ANY_BAD                                                                                    \
    (BIT(WAL_BAD_STALE) | BIT(WAL_BAD_FRAME) | BIT(WAL_BAD_READ) | BIT(WAL_BAD_SEQUENCE) |         \
     BIT(WAL_BAD_HEADER) | BIT(WAL_BAD_MISSING))
#define TORN_KINDS (BIT(WAL_BAD_FRAME) | BIT(WAL_BAD_READ) | BIT(WAL_BAD_SEQUENCE))

static const struct row rows[] = {
    {.which = REC_R12_FOREIGN, .code = LEVEE_EDIR_FOREIGN, .foreign = YES},
    /* Nothing was ever written: what creation left. A checkpoint cannot exist before a log. */
    {.which = REC_R15_NEW,
     .log_empty = YES,
     .versions_exist = NO,
     .bads = BIT(WAL_BAD_NONE),
     .lost_tail = NO},
    /* No state to begin with, and the log does not reach back to its beginning. */
    {.which = REC_R13_NO_CHECKPOINT, .code = LEVEE_ECKPT_NONE, .have_chain = NO, .gap = YES},
    /* The chain fell back, and the log it needs was trimmed. */
    {.which = REC_R13_NO_CHECKPOINT,
     .code = LEVEE_ECKPT_NONE,
     .have_chain = YES,
     .marked = YES,
     .gap = YES},
    {.which = REC_R14_GAP, .code = LEVEE_EWAL_GAP, .gap = YES},
    /* Damage below everything that is still needed. */
    {.which = REC_R11_VOID_DAMAGE, .bads = ANY_BAD, .below_replay = YES, .lost_tail = NO},
    {.which = REC_R11_VOID_DAMAGE,
     .code = LEVEE_EWAL_GAP,
     .bads = ANY_BAD,
     .below_replay = YES,
     .lost_tail = YES},
    /* Acknowledged data is damaged: told by a later frame, or by the checkpoint. */
    {.which = REC_R7_READ_ERROR,
     .code = LEVEE_EWAL_READ,
     .bads = BIT(WAL_BAD_READ),
     .witnessed = YES},
    {.which = REC_R10_HEADER,
     .code = LEVEE_EWAL_CORRUPT,
     .bads = BIT(WAL_BAD_HEADER),
     .witnessed = YES},
    {.which = REC_R9_SEQUENCE,
     .code = LEVEE_EWAL_CORRUPT,
     .bads = BIT(WAL_BAD_SEQUENCE),
     .witnessed = YES},
    {.which = REC_R9_SEQUENCE,
     .code = LEVEE_EWAL_GAP,
     .bads = BIT(WAL_BAD_MISSING),
     .witnessed = YES},
    {.which = REC_R5_CORRUPT, .code = LEVEE_EWAL_CORRUPT, .bads = ANY_BAD, .witnessed = YES},
    /* The end of the log lies below what the checkpoint knew to be durable. */
    {.which = REC_R8_LOST_TAIL, .code = LEVEE_EWAL_GAP, .lost_tail = YES},
    /* Nobody was told that this group is durable: it goes, always. */
    {.which = REC_R2_STALE,
     .drop_tail = true,
     .bads = BIT(WAL_BAD_STALE),
     .witnessed = NO,
     .later_valid = NO},
    {.which = REC_R6_SEALED_UNWITNESSED,
     .drop_tail = true,
     .bads = TORN_KINDS,
     .witnessed = NO,
     .sealed = YES},
    {.which = REC_R4_OUT_OF_ORDER,
     .drop_tail = true,
     .bads = ANY_BAD,
     .witnessed = NO,
     .later_valid = YES},
    {.which = REC_R3_TORN, .drop_tail = true, .bads = ANY_BAD, .witnessed = NO},
    {.which = REC_R1_CLEAN},
};

static bool fits(enum tri want, bool have)
{
    return want == ANY || (want == YES) == have;
}

static bool matches(const struct row *r, const struct rec_evidence *e)
{
    return fits(r->foreign, e->foreign_log) && fits(r->log_empty, e->log_empty) &&
           fits(r->have_chain, e->have_chain) && fits(r->versions_exist, e->versions_exist) &&
           fits(r->marked, e->checkpoint_marked) && fits(r->gap, e->gap_at_start) &&
           fits(r->lost_tail, e->lost_tail) && (r->bads == 0 || (r->bads & BIT(e->bad))) &&
           fits(r->witnessed, e->bad_witnessed) && fits(r->below_replay, e->bad_below_replay) &&
           fits(r->sealed, e->bad_group_sealed) && fits(r->later_valid, e->bad_later_valid);
}

struct rec_verdict rec_decide(const struct rec_evidence *e)
{
    size_t i = 0;

    while (!matches(&rows[i], e)) {
        i++; /* the last row matches everything */
    }
    return (struct rec_verdict){rows[i].which, rows[i].code, rows[i].drop_tail};
}

const char *rec_case_text(enum rec_case c)
{
    static const char *const texts[] = {
        [REC_R1_CLEAN] = "the log ends clean",
        [REC_R2_STALE] = "stale bytes behind the end",
        [REC_R3_TORN] = "a torn, unacknowledged tail",
        [REC_R4_OUT_OF_ORDER] = "an unacknowledged tail that reached the disk out of order",
        [REC_R5_CORRUPT] = "acknowledged data is damaged",
        [REC_R6_SEALED_UNWITNESSED] = "the last group was cut short by a power loss",
        [REC_R7_READ_ERROR] = "acknowledged data cannot be read",
        [REC_R8_LOST_TAIL] = "the log ends before what the checkpoint knew to be durable",
        [REC_R9_SEQUENCE] = "frames are missing, repeated or misplaced",
        [REC_R10_HEADER] = "both headers of a segment in use are damaged",
        [REC_R11_VOID_DAMAGE] = "damage below everything that is still needed",
        [REC_R12_FOREIGN] = "segments of another context",
        [REC_R13_NO_CHECKPOINT] = "no checkpoint chain verifies and the log does not reach back",
        [REC_R14_GAP] = "the oldest part of the log that is needed is missing",
        [REC_R15_NEW] = "a directory that has never run",
    };

    return texts[c];
}

/* ---- from facts to evidence ---- */

/* The bad place that counts: the first that is not below replay-from, else the first. */
static const struct wal_bad *bad_of(const struct rec_facts *f)
{
    for (size_t i = 0; i < f->wal.bad_count; i++) {
        if (f->wal.bads[i].end_lsn > f->ckpt_replay_from) {
            return &f->wal.bads[i];
        }
    }
    return f->wal.bad_count ? &f->wal.bads[0] : NULL;
}

void rec_evidence_of(const struct rec_facts *f, struct rec_evidence *ret)
{
    const struct wal_bad *b = bad_of(f);

    *ret = (struct rec_evidence){
        .lost_tail = f->wal.next_lsn <= f->ckpt_durable_lsn,
        .gap_at_start = f->wal.first_lsn > f->ckpt_replay_from,
        .log_empty = f->wal.entry_count == 0 && f->wal.next_lsn == 1,
        .have_chain = f->chain.count > 0,
        .versions_exist = f->store.versions.count > 0,
        .checkpoint_marked = f->marked_batch > f->ckpt_batch,
        .foreign_log = f->wal.has_foreign,
    };
    if (b) {
        ret->bad = b->kind == WAL_BAD_NONE ? WAL_BAD_FRAME : b->kind;
        ret->bad_witnessed = b->witnessed;
        ret->bad_group_sealed = b->group_seal_ok;
        ret->bad_later_valid = b->later_valid;
        ret->bad_below_replay = b->end_lsn <= f->ckpt_replay_from;
    }
}

static int refuse(const struct rec_facts *f, const struct rec_plan *p, struct levee_error *err)
{
    const struct wal_bad *b = bad_of(f);
    int code = p->verdict.code;

    err_set(err, code, "recovery: %s", rec_case_text(p->verdict.which));
    if (p->verdict.which == REC_R8_LOST_TAIL) {
        err_expected(err, "LSN up to %llu", (unsigned long long)f->ckpt_durable_lsn);
        err_found(err, "missing %llu to %llu", (unsigned long long)f->wal.next_lsn,
                  (unsigned long long)f->ckpt_durable_lsn);
    } else if (p->verdict.which == REC_R14_GAP || p->verdict.which == REC_R13_NO_CHECKPOINT) {
        err_expected(err, "the log from LSN %llu", (unsigned long long)f->ckpt_replay_from);
        err_found(err, "it begins at %llu; %llu damaged versions",
                  (unsigned long long)f->wal.first_lsn, (unsigned long long)f->bad_versions);
    } else if (p->verdict.which == REC_R12_FOREIGN) {
        char id[UUID_TEXT];
        err_found(err, "context %s", uuid_format(&f->wal.foreign, id));
    } else if (b) {
        err_where(err, "%s, offset %llu, LSN %llu", b->segment, (unsigned long long)b->offset,
                  (unsigned long long)b->lsn);
        err_expected(err, "%016llx; durable up to LSN %llu", (unsigned long long)b->expected,
                     (unsigned long long)f->wal.witnessed_lsn);
        err_found(err, "%016llx", (unsigned long long)b->found);
    }
    return code;
}

int rec_plan(const struct rec_facts *f, uint64_t epoch_floor, struct rec_plan *ret,
             struct levee_error *err)
{
    struct rec_plan p = {0};

    rec_evidence_of(f, &p.evidence);
    p.verdict = rec_decide(&p.evidence);
    if (p.verdict.code) {
        *ret = p;
        return refuse(f, &p, err);
    }
    p.keep_to = f->wal.next_lsn - 1;
    p.keep_from =
        f->wal.witnessed_lsn + 1 <= f->wal.next_lsn ? f->wal.witnessed_lsn + 1 : f->wal.next_lsn;
    p.epoch = (f->wal.epoch_max > epoch_floor ? f->wal.epoch_max : epoch_floor) + 1;
    *ret = p;
    return LEVEE_OK;
}

/* ---- sinks ---- */

struct rec_sink_verdict rec_judge_sink(const struct rec_sink_fact *f)
{
    switch (f->state) {
    case REC_TOKEN_UNREACHABLE:
        return (struct rec_sink_verdict){REC_SINK_WAIT, LEVEE_OK, 0};
    case REC_TOKEN_FOREIGN:
        return (struct rec_sink_verdict){REC_SINK_FOREIGN_, LEVEE_ESINK_FOREIGN, 0};
    case REC_TOKEN_LOST:
        return (struct rec_sink_verdict){REC_SINK_LOST, LEVEE_ESINK_BEHIND, 0};
    case REC_TOKEN_FOUND:
        if (f->token_batch > f->newest_open || f->token_epoch > f->epoch_max) {
            return (struct rec_sink_verdict){REC_SINK_AHEAD, LEVEE_ESINK_AHEAD, 0};
        }
        break;
    case REC_TOKEN_NEVER:
    default:
        break;
    }
    uint64_t token = f->state == REC_TOKEN_FOUND ? f->token_batch : 0;
    token -= token && f->in_part;
    if (!f->keeps_tokens) {
        return (struct rec_sink_verdict){REC_SINK_NO_TOKEN, LEVEE_OK,
                                         f->added ? f->newest_open : f->confirmed};
    }
    if (token < f->confirmed) {
        return (struct rec_sink_verdict){REC_SINK_BEHIND, LEVEE_ESINK_BEHIND, 0};
    }
    if (f->added) {
        return (struct rec_sink_verdict){REC_SINK_NEW, LEVEE_OK,
                                         token > f->newest_open ? token : f->newest_open};
    }
    return (struct rec_sink_verdict){REC_SINK_RESUME, LEVEE_OK, token};
}

int rec_sink_error(const struct rec_sink_fact *f, const struct rec_sink_verdict *v,
                   struct levee_error *err)
{
    switch (v->which) {
    case REC_SINK_AHEAD:
        err_set(err, v->code, "sink %s is ahead of this directory", f->uid);
        err_expected(err, "at most batch %llu, epoch %llu", (unsigned long long)f->newest_open,
                     (unsigned long long)f->epoch_max);
        break;
    case REC_SINK_BEHIND:
        err_set(err, v->code, "sink %s has lost batches it had confirmed", f->uid);
        err_expected(err, "batch %llu", (unsigned long long)f->confirmed);
        break;
    case REC_SINK_LOST:
        err_set(err, v->code, "sink %s has lost its token and cannot tell what it holds", f->uid);
        err_expected(err, "batch %llu", (unsigned long long)f->confirmed);
        break;
    case REC_SINK_FOREIGN_:
        err_set(err, v->code, "sink %s belongs to another context or uid", f->uid);
        break;
    case REC_SINK_NEW:
    case REC_SINK_RESUME:
    case REC_SINK_NO_TOKEN:
    case REC_SINK_WAIT:
    default:
        return v->code;
    }
    if (f->state == REC_TOKEN_FOUND) {
        err_found(err, "batch %llu, epoch %llu", (unsigned long long)f->token_batch,
                  (unsigned long long)f->token_epoch);
    } else {
        err_found(err, "no token of ours");
    }
    return v->code;
}
