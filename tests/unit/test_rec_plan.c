/*
 * The decision table of recovery, held against the rules' prose over all evidence there can be:
 * 7 kinds of bad places × 2^10 facts, and every token a sink may answer with. The model below is
 * written from faults.md 3 and design 4d.2, 4d.3, 4d.6, in the order in which they argue; it knows
 * neither rows nor letters.
 */
#include <stdio.h>
#include <string.h>

#include "recovery/recovery.h"
#include "tests/support/suite.h"

#define FACTS 10u
#define KINDS 7u

static struct rec_evidence evidence(unsigned kind, unsigned bits)
{
    return (struct rec_evidence){
        .bad = (enum wal_bad_kind)kind,
        .bad_witnessed = bits & 1,
        .bad_group_sealed = bits & 2,
        .bad_later_valid = bits & 4,
        .bad_below_replay = bits & 8,
        .lost_tail = bits & 16,
        .gap_at_start = bits & 32,
        .log_empty = bits & 64,
        .have_chain = bits & 128,
        .versions_exist = bits & 256,
        .checkpoint_marked = bits & 512,
    };
}

struct outcome {
    int code;
    bool drop;
};

/* Acknowledged data is damaged: what is said depends on how it shows. */
static int damage_code(enum wal_bad_kind kind)
{
    return kind == WAL_BAD_READ ? LEVEE_EWAL_READ /* may be the device's mood: nothing is cut */
           : kind == WAL_BAD_MISSING ? LEVEE_EWAL_GAP
                                     : LEVEE_EWAL_CORRUPT;
}

static struct outcome model(const struct rec_evidence *e)
{
    bool bad = e->bad != WAL_BAD_NONE;

    if (e->foreign_log) {
        return (struct outcome){LEVEE_EDIR_FOREIGN, false};
    }
    if (e->log_empty && !e->versions_exist && !bad && !e->lost_tail) {
        return (struct outcome){LEVEE_OK, false}; /* creation was interrupted, or has just ended */
    }
    if (e->gap_at_start) {
        /* Something needed is not there. If no checkpoint verifies, or a newer one than the chain's
         * was published, then it is the checkpoint that is missing; otherwise the log. */
        bool fell_back = !e->have_chain || e->checkpoint_marked;
        return (struct outcome){fell_back ? LEVEE_ECKPT_NONE : LEVEE_EWAL_GAP, false};
    }
    if (bad && e->bad_below_replay) {
        return (struct outcome){e->lost_tail ? LEVEE_EWAL_GAP : LEVEE_OK, false};
    }
    if (bad && e->bad_witnessed) {
        return (struct outcome){damage_code(e->bad), false};
    }
    if (e->lost_tail) {
        return (struct outcome){LEVEE_EWAL_GAP, false}; /* the checkpoint knew of more */
    }
    return (struct outcome){LEVEE_OK,
                            bad}; /* nobody was told that it is durable: it goes, always */
}

START_TEST(every_combination_of_evidence_is_decided_as_the_rules_say)
{
    size_t decided = 0;

    for (unsigned foreign = 0; foreign < 2; foreign++) {
        for (unsigned kind = 0; kind < KINDS; kind++) {
            for (unsigned bits = 0; bits < 1u << FACTS; bits++) {
                struct rec_evidence e = evidence(kind, bits);
                e.foreign_log = foreign;
                struct outcome want = model(&e);
                struct rec_verdict v = rec_decide(&e);
                if (v.code != want.code || v.drop_tail != want.drop) {
                    ck_abort_msg("kind %u, facts %03x, foreign %u: %s, code %d, drop %d; the rules "
                                 "say %d, %d",
                                 kind, bits, foreign, rec_case_text(v.which), v.code, v.drop_tail,
                                 want.code, want.drop);
                }
                MUST(rec_case_text(v.which) != NULL);
                decided++;
            }
        }
    }
    ck_assert_uint_eq(decided, 2u * KINDS << FACTS);
}
END_TEST

/* What may never be, whatever else is true. */
START_TEST(no_verdict_breaks_a_promise)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (unsigned bits = 0; bits < 1u << FACTS; bits++) {
            struct rec_evidence e = evidence(kind, bits);
            struct rec_verdict v = rec_decide(&e);
            bool bad = e.bad != WAL_BAD_NONE;
            MUST(!(v.code && v.drop_tail));          /* a refusal touches nothing */
            MUST(!(v.drop_tail && e.bad_witnessed)); /* P1 */
            MUST(!(bad && e.bad_witnessed && !e.bad_below_replay && !v.code)); /* P4 */
            MUST(!(v.drop_tail && e.bad_below_replay));
            MUST(bad || !v.drop_tail);
            e.bad_group_sealed = !e.bad_group_sealed; /* names the case, decides nothing */
            struct rec_verdict other = rec_decide(&e);
            MUST(other.code == v.code && other.drop_tail == v.drop_tail);
        }
    }
}
END_TEST

/* ---- from facts to a plan ---- */

static struct rec_facts facts(void)
{
    return (struct rec_facts){
        .ckpt_replay_from = 1,
        .wal = {
            .next_lsn = 11, .first_lsn = 1, .witnessed_lsn = 8, .entry_count = 10, .epoch_max = 4}};
}

START_TEST(a_plan_keeps_what_is_not_witnessed_under_an_epoch_above_all)
{
    struct rec_facts f = facts();
    struct rec_plan p;
    struct levee_error err = {0};

    ck_assert_int_eq(rec_plan(&f, 2, &p, &err), LEVEE_OK);
    ck_assert_uint_eq(p.keep_from, 9);
    ck_assert_uint_eq(p.keep_to, 10);
    ck_assert_uint_eq(p.epoch, 5);
    ck_assert_int_eq(rec_plan(&f, 7, &p, &err), LEVEE_OK);
    ck_assert_uint_eq(p.epoch, 8); /* a sink has seen a later life than the log */
    f.wal.witnessed_lsn = 12;      /* a checkpoint may know of more than the log has */
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_OK);
    ck_assert_uint_eq(p.keep_from, 11);
}
END_TEST

START_TEST(the_bad_place_that_counts_is_the_first_that_is_still_needed)
{
    struct wal_bad bads[2] = {{.kind = WAL_BAD_FRAME, .end_lsn = 3, .segment = "one"},
                              {.kind = WAL_BAD_READ, .end_lsn = 9, .segment = "two"}};
    struct rec_facts f = facts();
    struct rec_evidence e;

    f.wal.bads = bads;
    f.wal.bad_count = 2;
    rec_evidence_of(&f, &e);
    ck_assert_int_eq(e.bad, WAL_BAD_FRAME);
    ck_assert(!e.bad_below_replay);
    f.ckpt_replay_from = 3;
    rec_evidence_of(&f, &e);
    ck_assert_int_eq(e.bad, WAL_BAD_READ);
    ck_assert(!e.bad_below_replay);
    f.ckpt_replay_from = 9;
    rec_evidence_of(&f, &e);
    ck_assert_int_eq(e.bad, WAL_BAD_FRAME);
    ck_assert(e.bad_below_replay);
    f.wal.bad_count = 0;
    rec_evidence_of(&f, &e);
    ck_assert_int_eq(e.bad, WAL_BAD_NONE);
    bads[0].kind = WAL_BAD_NONE; /* a place whose kind is not known is damage */
    f.wal.bad_count = 1;
    rec_evidence_of(&f, &e);
    ck_assert_int_eq(e.bad, WAL_BAD_FRAME);
}
END_TEST

/* Every refusal says where, what was expected and what was found. */
START_TEST(refusals_name_what_is_missing)
{
    struct wal_bad bad = {.kind = WAL_BAD_FRAME,
                          .end_lsn = 9,
                          .lsn = 5,
                          .offset = 12288,
                          .segment = "0000000000000007.seg",
                          .witnessed = true};
    struct rec_facts f = facts();
    struct rec_plan p;
    struct levee_error err = {0};

    f.wal.bads = &bad;
    f.wal.bad_count = 1;
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_EWAL_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err.where, "0000000000000007.seg"));
    ck_assert_ptr_nonnull(strstr(err.where, "12288"));
    f.wal.bad_count = 0;
    f.ckpt_durable_lsn = 20;
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_EWAL_GAP);
    ck_assert_ptr_nonnull(strstr(err.found, "11 to 20"));
    f.ckpt_durable_lsn = 0;
    f.wal.first_lsn = 5;
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_ECKPT_NONE);
    ck_assert_ptr_nonnull(strstr(err.found, "begins at 5"));
    f.chain.count = 1;
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_EWAL_GAP);
    f.wal.has_foreign = true;
    ck_assert_int_eq(rec_plan(&f, 0, &p, &err), LEVEE_EDIR_FOREIGN);
    ck_assert_ptr_nonnull(strstr(err.found, "context"));
}
END_TEST

/* ---- sinks ---- */

/* 4d.6 in the order of its sentences. */
static struct outcome sink_model(const struct rec_sink_fact *f, uint64_t *skip_to)
{
    bool found = f->state == REC_TOKEN_FOUND;

    *skip_to = 0;
    if (f->state == REC_TOKEN_UNREACHABLE) {
        return (struct outcome){LEVEE_OK, false}; /* not an answer and not an error */
    }
    if (f->state == REC_TOKEN_FOREIGN) {
        return (struct outcome){LEVEE_ESINK_FOREIGN, false};
    }
    if (f->state == REC_TOKEN_LOST) {
        return (struct outcome){LEVEE_ESINK_BEHIND, false};
    }
    if (found && (f->token_batch > f->newest_open || f->token_epoch > f->epoch_max)) {
        return (struct outcome){LEVEE_ESINK_AHEAD, false};
    }
    if (!f->keeps_tokens) {
        *skip_to = f->added ? f->newest_open : f->confirmed;
        return (struct outcome){LEVEE_OK, false};
    }
    /* A batch in part is not there yet: it is begun again, and the sink goes on behind the part. */
    uint64_t has = !found ? 0 : f->in_part && f->token_batch ? f->token_batch - 1 : f->token_batch;
    if (has < f->confirmed) {
        return (struct outcome){LEVEE_ESINK_BEHIND, false};
    }
    *skip_to = f->added && f->newest_open > has ? f->newest_open : has;
    return (struct outcome){LEVEE_OK, false};
}

static void judge(const struct rec_sink_fact *f)
{
    uint64_t skip_to;
    struct outcome want = sink_model(f, &skip_to);
    struct rec_sink_verdict v = rec_judge_sink(f);
    struct levee_error err = {0};

    if (v.code != want.code || (!v.code && v.skip_to != skip_to)) {
        ck_abort_msg(
            "state %d, token %d%s of epoch %d, confirmed %d, open %d: code %d, skip %d; the "
            "rules say %d, %d",
            f->state, (int)f->token_batch, f->in_part ? " in part" : "", (int)f->token_epoch,
            (int)f->confirmed, (int)f->newest_open, v.code, (int)v.skip_to, want.code,
            (int)skip_to);
    }
    MUST(rec_sink_error(f, &v, &err) == v.code);
    MUST(!v.code || (strstr(err.what, f->uid) && err.found[0]));
}

START_TEST(every_token_is_judged_as_the_rules_say)
{
    for (unsigned i = 0; i < 5u * 2 * 2 * 2 * 4 * 3 * 4 * 4; i++) {
        unsigned x = i;
        struct rec_sink_fact f = {.uid = "out", .epoch_max = 2};
        f.state = (enum rec_token)(x % 5);
        x /= 5;
        f.keeps_tokens = x % 2;
        x /= 2;
        f.added = x % 2;
        x /= 2;
        f.in_part = x % 2;
        x /= 2;
        f.token_batch = x % 4;
        x /= 4;
        f.token_epoch = 1 + x % 3;
        x /= 3;
        f.confirmed = x % 4;
        x /= 4;
        f.newest_open = x % 4;
        judge(&f);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rec_plan");
    TCase *c = tcase_create("table");

    tcase_add_test(c, every_combination_of_evidence_is_decided_as_the_rules_say);
    tcase_add_test(c, no_verdict_breaks_a_promise);
    tcase_add_test(c, a_plan_keeps_what_is_not_witnessed_under_an_epoch_above_all);
    tcase_add_test(c, the_bad_place_that_counts_is_the_first_that_is_still_needed);
    tcase_add_test(c, refusals_name_what_is_missing);
    tcase_add_test(c, every_token_is_judged_as_the_rules_say);
    suite_add_tcase(s, c);
    return suite_main(s);
}
