/*
 * What a sink holds, and whether this directory may go on from there (4d.6): its token is read, or
 * other evidence searched for when the token has vanished, and held against what log and checkpoint
 * know. The verdict itself is recovery's (rec_judge_sink, a pure table); here are its facts, and
 * what it means for the sink at run time. Nothing is written.
 *
 * Before the first batch this runs on the caller's thread (levee_start), later on the sink's lane
 * (look, search) and the loop (judge).
 */
#include "runtime/context.h"

void rt_sink_token(const struct rt_sink *s, const struct rt_batch *b, struct levee_token *ret)
{
    *ret = (struct levee_token){.epoch = s->ctx->wal ? wal_epoch(s->ctx->wal) : 0};
    (void)uuid_format(&s->ctx->dir.context, ret->context);
    memcpy(ret->uid, s->node->uid, sizeof ret->uid);
    if (b) {
        ret->batch = b->header.id;
        ret->time_ms = b->header.time_ms;
        ret->digest = b->compute.digests[s->ordinal];
    }
}

int rt_sink_look(struct rt_sink *s, struct levee_error *err)
{
    struct levee_token identity;
    int code = LEVEE_OK;

    s->reachable = true;
    s->token_state = LEVEE_TOKEN_NEVER;
    if (!s->ops) {
        return LEVEE_OK; /* foreach_batch keeps no token of ours */
    }
    rt_sink_token(s, NULL, &identity);
    if (!s->is_open && s->ops->open) {
        code = s->ops->open(s->self, &identity, err);
    }
    if (code == LEVEE_OK) {
        s->is_open = true;
        if (s->ops->last_token) {
            code = s->ops->last_token(s->self, &s->token_state, &s->token, err);
        }
    }
    if (code && levee_error_class(code) == LEVEE_CLASS_RETRY && code != LEVEE_ENOMEM) {
        s->reachable = false;
        return LEVEE_OK;
    }
    return code;
}

static bool keeps_tokens(const struct rt_sink *s)
{
    return s->ops && s->ops->last_token && s->ops->kind != LEVEE_SINK_AT_LEAST_ONCE;
}

int rt_sink_search(struct rt_sink *s, struct levee_error *err)
{
    uint64_t whole = s->token.batch - (s->token.records > 0);
    bool missing = s->token_state == LEVEE_TOKEN_NEVER ||
                   (s->token_state == LEVEE_TOKEN_FOUND && whole < s->confirmed);

    if (!s->reachable || !missing || !keeps_tokens(s) || !s->ops->search || s->note.len == 0) {
        return LEVEE_OK;
    }
    struct levee_error why = {0};
    char line[1024];
    int code =
        s->ops->search(s->self, buf_view(&s->note), s->confirmed, &s->token_state, &s->token, &why);
    if (code && levee_error_class(code) == LEVEE_CLASS_RETRY && code != LEVEE_ENOMEM) {
        s->reachable = false;
        return LEVEE_OK;
    }
    if (code == LEVEE_OK && s->token_state == LEVEE_TOKEN_LOST) {
        rt_say(s->ctx, 1, "sink %s: %s", s->node->uid, levee_error_format(&why, line, sizeof line));
    } else if (code == LEVEE_OK) {
        rt_say(s->ctx, 1,
               "sink %s: its token had vanished; its records show that batch %llu was the last",
               s->node->uid, (unsigned long long)s->token.batch);
    } else if (err) {
        *err = why;
    }
    return code;
}

int rt_sink_restore_note(struct rt_sink *s, struct levee_slice note, struct levee_error *err)
{
    buf_clear(&s->note);
    buf_put(&s->note, note.data, note.len);
    return s->note.failed ? err_nomem(err, note.len) : LEVEE_OK;
}

/* The newest batch that a token of ours may name. */
static uint64_t newest_open(const levee_context *ctx)
{
    return ctx->last_batch > ctx->newest_open_at_start ? ctx->last_batch
                                                       : ctx->newest_open_at_start;
}

static uint64_t epoch_max(const levee_context *ctx)
{
    uint64_t now = ctx->wal ? wal_epoch(ctx->wal) : 0;

    return now > ctx->facts.wal.epoch_max ? now : ctx->facts.wal.epoch_max;
}

/* What this directory gave, or is giving, the sink as batch b; 0: nothing, or it is not known. */
static uint64_t our_digest(const struct rt_sink *s, uint64_t batch)
{
    const levee_context *ctx = s->ctx;

    for (struct link *l = ctx->committing.head; l; l = l->next) {
        const struct rt_batch *b = CONTAINER_OF(l, struct rt_batch, link);
        if (b->header.id == batch) {
            return b->compute.digests[s->ordinal];
        }
    }
    for (struct link *l = ctx->logged.head; l; l = l->next) {
        const struct rt_logged_batch *b = CONTAINER_OF(l, struct rt_logged_batch, link);
        for (size_t i = 0; b->header.id == batch && i < b->sink_count; i++) {
            if (b->sinks[i].table == s->table) {
                return b->sinks[i].digest;
            }
        }
    }
    return 0;
}

/* A token of ours can name a batch that is not ours: of a copy of this directory that went its own
 * way, under the same epoch if both were started at the same time. To take its batch for ours would
 * lose ours. A batch in part is not compared: what was refused since has changed its digest. */
static int other_batch(const struct rt_sink *s, struct levee_error *err)
{
    uint64_t ours = 0;

    if (s->reachable && s->token_state == LEVEE_TOKEN_FOUND && s->token.digest &&
        !s->token.records) {
        ours = our_digest(s, s->token.batch);
    }
    if (!ours || ours == s->token.digest) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_ESINK_AHEAD, "sink %s holds another batch %llu than this directory",
            s->node->uid, (unsigned long long)s->token.batch);
    err_expected(err, "digest %016llx", (unsigned long long)ours);
    err_found(err, "%016llx, epoch %llu", (unsigned long long)s->token.digest,
              (unsigned long long)s->token.epoch);
    return LEVEE_ESINK_AHEAD;
}

int rt_sink_judge(struct rt_sink *s, struct levee_error *err)
{
    static const enum rec_token states[] = {
        [LEVEE_TOKEN_NEVER] = REC_TOKEN_NEVER,
        [LEVEE_TOKEN_FOUND] = REC_TOKEN_FOUND,
        [LEVEE_TOKEN_LOST] = REC_TOKEN_LOST,
        [LEVEE_TOKEN_FOREIGN] = REC_TOKEN_FOREIGN,
    };
    struct rec_sink_fact f = {
        .uid = s->node->uid,
        .state = s->reachable ? states[s->token_state] : REC_TOKEN_UNREACHABLE,
        .keeps_tokens = keeps_tokens(s),
        .added = s->added && !s->judged, /* judged again, it lacks what it has not taken since */
        .token_batch = s->token.batch,
        .token_epoch = s->token.epoch,
        .in_part = s->token.records > 0,
        .confirmed = s->confirmed,
        .newest_open = newest_open(s->ctx),
        .epoch_max = epoch_max(s->ctx),
    };
    struct rec_sink_verdict v = rec_judge_sink(&f);
    int code = v.code ? rec_sink_error(&f, &v, err) : other_batch(s, err);

    if (code) {
        return code;
    }
    if (v.which != REC_SINK_WAIT) {
        s->judged = true;
        s->settled = s->settled || !s->ops || !s->ops->settle;
        s->skip_to = v.skip_to > s->start_batch ? v.skip_to : s->start_batch;
        uint64_t whole = s->token.batch - (s->token.records > 0);
        if (s->token_state == LEVEE_TOKEN_FOUND && s->confirmed < whole) {
            s->confirmed = whole;
        }
    }
    return LEVEE_OK;
}

bool rt_sinks_judged(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        if (!ctx->graph->sinks[i]->sink->judged) {
            return false;
        }
    }
    return true;
}
