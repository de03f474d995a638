/*
 * Applying: the only part of recovery that writes. Order matters and every step may be the last one
 * before a kill:
 *
 *   1  the new first segment (wal_rebuild): from its rename on this life owns the log
 *   2  void and unverified bytes behind it, temporary names (wal_clean)
 *   3  damaged versions into quarantine, leftovers of the checkpoint directory
 *
 * Killed after 1, the next recovery finds the new segment, and 2 and 3 again: idempotent.
 */
#include "recovery/recovery.h"

#include <stdio.h>

static int set_aside_bad(struct rec_facts *f, struct rec_report *r, struct levee_error *err)
{
    struct ckpt_versions *v = &f->store.versions;

    for (size_t i = v->count; i-- > 0;) {
        if (v->items[i].bad) {
            struct ckpt_version gone = v->items[i];
            int code = ckpt_remove(&f->store, &gone, err); /* a bad one goes to quarantine */
            if (code) {
                return code;
            }
            r->set_aside++;
        }
    }
    return LEVEE_OK;
}

int rec_apply(struct rec_dir *dir, const struct wal_options *wal, const struct rec_plan *plan,
              struct rec_facts *facts, struct rec_report *ret, struct levee_error *err)
{
    struct rec_report r = {0};
    const struct wal_bad *tail =
        facts->wal.bad_count ? &facts->wal.bads[facts->wal.bad_count - 1] : NULL;
    char where[96] = "";
    int code;

    ASSERT(plan->verdict.code == LEVEE_OK);
    crash_at(dir->io, CP_REC_AFTER_PLAN);
    if (plan->verdict.drop_tail && tail) {
        r.dropped_groups = 1;
        (void)snprintf(where, sizeof where, " at %s, offset %llu", tail->segment,
                       (unsigned long long)tail->group_offset);
    }
    r.rewritten_frames = plan->keep_to + 1 - plan->keep_from;
    /* After a process death FORMAT's name may exist only in the page cache: durable before anything
     * rests on it. */
    code = dir->io->ops->sync_dir(dir->io, dir->path, err);
    if (code) {
        return code;
    }
    code = wal_rebuild(dir->io, wal, &facts->wal, plan->keep_from, plan->keep_to, plan->epoch, err);
    if (code == LEVEE_OK) {
        code = wal_clean(dir->io, wal, &facts->wal, err);
    }
    if (code == LEVEE_OK) {
        code = set_aside_bad(facts, &r, err);
    }
    if (code == LEVEE_OK) {
        code = ckpt_remove_temps(&facts->store, err);
        crash_at(dir->io, CP_REC_AFTER_SET_ASIDE);
    }
    if (code == LEVEE_OK &&
        (r.dropped_groups || r.set_aside || plan->verdict.which == REC_R11_VOID_DAMAGE)) {
        (void)snprintf(r.text, sizeof r.text, "%s%s; %llu checkpoint files set aside",
                       rec_case_text(plan->verdict.which), where, (unsigned long long)r.set_aside);
    }
    if (code == LEVEE_OK) {
        *ret = r;
    }
    return code;
}
