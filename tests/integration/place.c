#include "tests/integration/place.h"

#include "tests/support/suite.h"

static int last_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                      struct levee_error *err)
{
    const struct place *p = self;

    (void)err;
    *ret_state = p->token.batch ? LEVEE_TOKEN_FOUND : LEVEE_TOKEN_NEVER;
    *ret = p->token;
    return LEVEE_OK;
}

static int begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct place *p = self;

    p->tries++;
    if (p->down) {
        return err_set(err, LEVEE_ECONNECTION, "the other side is away");
    }
    ck_assert_uint_gt(token->batch, p->token.batch); /* what is committed is not begun again */
    p->now = *token;
    buf_clear(&p->staged);
    return LEVEE_OK;
}

static int write(void *self, size_t partition, const struct levee_record *records, size_t n,
                 struct levee_error *err)
{
    struct place *p = self;

    (void)partition;
    for (size_t i = 0; i < n; i++) {
        buf_slice(&p->staged, records[i].key);
        buf_slice(&p->staged, records[i].value);
        buf_u64(&p->staged, (uint64_t)records[i].time_ms);
    }
    return p->staged.failed ? err_nomem(err, p->staged.len) : LEVEE_OK;
}

static int commit(void *self, struct levee_error *err)
{
    struct place *p = self;
    struct cursor c = cursor_of(buf_view(&p->staged));

    (void)err;
    p->token = p->now;
    while (cur_left(&c) && p->take) {
        struct levee_record r = {.key = cur_slice(&c)};
        r.value = cur_slice(&c);
        r.time_ms = (int64_t)cur_u64(&c);
        p->take(p->arg, &p->token, &r);
    }
    return LEVEE_OK;
}

const struct levee_sink_ops place_ops = {.version = 1,
                                         .kind = LEVEE_SINK_TRANSACTIONAL,
                                         .last_token = last_token,
                                         .begin = begin,
                                         .write = write,
                                         .commit = commit};

void place_release(struct place *p)
{
    buf_release(&p->staged);
}
