/*
 * Offsets for lag monitors, and who else reads these partitions.
 *
 * With the option `group` a thread of its own commits to that consumer group what was appended and
 * has become durable and witnessed: never more than a restart can find in our log. It is a
 * courtesy. Nothing reads these offsets back, and a commit that fails is only counted and told.
 *
 * Each offset carries a text that names us (context id and uid). Before partitions are read, and
 * before each commit, the texts are looked at: somebody else's means that two contexts read the
 * same partitions in one group, by mistake of configuration, and is refused unless the option
 * `adopt` says that we take over. Two contexts that start at the same time both claim, and at least
 * the earlier one finds the other's text before its first commit.
 *
 * The mark. The receiver's thread offers a mark, its positions and the ticket of its last append,
 * when the commit before is done. The thread waits until the ticket is durable, then until all that
 * was durable by that time is witnessed, then commits.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

#define LOOK_NS      200000000u
#define COMMIT_MS    10000
#define COMMITTED_MS 300 /* of a question by the thread: bounds how long a stop takes */

/* ---- texts ---- */

static bool is_ours(const struct kafka_source *s, const rd_kafka_topic_partition_t *e)
{
    size_t len = strlen(s->group.text);

    return e->metadata_size == len && memcmp(e->metadata, s->group.text, len) == 0;
}

static int foreign(const struct kafka_source *s, const rd_kafka_topic_partition_t *e,
                   struct levee_error *err)
{
    size_t len = e->metadata_size < 80 ? e->metadata_size : 80;

    err_set(err, LEVEE_ESOURCE_FOREIGN,
            "source %s: partition %d of Kafka topic %s belongs to another reader in group %s",
            levee_inlet_uid(s->inlet), (int)e->partition, e->topic, s->config.group);
    err_where(err, "brokers %s", s->config.brokers);
    err_expected(err, "%s", s->group.text);
    return err_found(err, "offset %lld \"%.*s\"", (long long)e->offset, (int)len,
                     e->metadata ? (const char *)e->metadata : "");
}

/* Nothing committed is nobody's. */
static int check(const struct kafka_source *s, const rd_kafka_topic_partition_list_t *list,
                 struct levee_error *err)
{
    for (int i = 0; i < list->cnt && !s->config.adopt; i++) {
        if (list->elems[i].offset >= 0 && !is_ours(s, &list->elems[i])) {
            return foreign(s, &list->elems[i], err);
        }
    }
    return LEVEE_OK;
}

static rd_kafka_resp_err_t first_error(const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++) {
        if (list->elems[i].err) {
            return list->elems[i].err;
        }
    }
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* The client frees the text with the list: it wants memory of its own kind. */
static bool sign(const struct kafka_source *s, rd_kafka_topic_partition_t *e)
{
    size_t len = strlen(s->group.text);

    if (e->metadata) {
        rd_kafka_mem_free(s->rk, e->metadata);
    }
    e->metadata_size = 0;
    e->metadata = rd_kafka_mem_malloc(s->rk, len + 1);
    if (!e->metadata) {
        return false;
    }
    memcpy(e->metadata, s->group.text, len + 1);
    e->metadata_size = len;
    return true;
}

/* ---- questions ---- */

static rd_kafka_resp_err_t ask(struct kafka_source *s, rd_kafka_topic_partition_list_t *list,
                               int timeout_ms)
{
    rd_kafka_resp_err_t code = rd_kafka_committed(s->rk, list, timeout_ms);

    return code ? code : first_error(list);
}

static rd_kafka_resp_err_t commit(struct kafka_source *s,
                                  const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(s->rk);
    uint64_t end = kafka_now(s) + (uint64_t)COMMIT_MS * 1000000u;
    rd_kafka_resp_err_t code = rd_kafka_commit_queue(s->rk, list, queue, NULL, NULL);
    rd_kafka_event_t *event = NULL;

    while (!code && !event && !atomic_load(&s->stop) && kafka_now(s) < end) {
        event = rd_kafka_queue_poll(queue, KAFKA_POLL_MS);
    }
    if (event) {
        code = rd_kafka_event_error(event);
        const rd_kafka_topic_partition_list_t *told = rd_kafka_event_topic_partition_list(event);
        code = code || !told ? code : first_error(told);
        rd_kafka_event_destroy(event);
    } else if (!code) {
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    rd_kafka_queue_destroy(queue);
    return code;
}

/* Every failure counts, and one in a while is told: with all brokers away there are two a second,
 * for as long as it lasts. */
static void count_commit(struct kafka_source *s, rd_kafka_resp_err_t code)
{
    struct levee_error told = {0};
    uint64_t last = atomic_load(&s->group.told_ns), now = kafka_now(s);

    if (!code) {
        counter_add(&s->shown.commits, 1);
        return;
    }
    if (atomic_load(&s->stop)) {
        return;
    }
    counter_add(&s->shown.commit_failures, 1);
    if (!last || now >= last + KAFKA_REPORT_NS) {
        atomic_store(&s->group.told_ns, now);
        err_set(&told, LEVEE_EBROKER, "offsets could not be committed to group %s: %s",
                s->config.group, rd_kafka_err2str(code));
        levee_inlet_report(s->inlet, &told);
    }
}

/* ---- claiming: on the receiver's thread ---- */

static rd_kafka_topic_partition_list_t *list_from(const struct kafka_source *s, size_t first)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)s->count);

    for (size_t i = first; i < s->count; i++) {
        const struct kafka_partition *p = s->partitions[i];
        rd_kafka_topic_partition_list_add(list, p->topic->name, p->id);
    }
    return list;
}

/* Asks until there is an answer. */
static int ask_patiently(struct kafka_source *s, rd_kafka_topic_partition_list_t *list,
                         struct levee_error *err)
{
    int timeout_ms = KAFKA_ASK_FIRST_MS, code = LEVEE_OK;

    while (code == LEVEE_OK) {
        rd_kafka_resp_err_t answer = ask(s, list, timeout_ms);
        if (!answer) {
            return LEVEE_OK;
        }
        code = kafka_no_answer(s, s->config.group, answer, &timeout_ms, err);
    }
    return code;
}

/* Names us at partitions that have no name yet, at their start: nothing of them was read. */
static void put_name(struct kafka_source *s, const rd_kafka_topic_partition_list_t *list,
                     size_t first)
{
    rd_kafka_topic_partition_list_t *claim = rd_kafka_topic_partition_list_new(list->cnt);
    bool fine = true;

    for (int i = 0; i < list->cnt && fine; i++) {
        if (!is_ours(s, &list->elems[i])) {
            const struct kafka_partition *p = s->partitions[first + (size_t)i];
            rd_kafka_topic_partition_t *e =
                rd_kafka_topic_partition_list_add(claim, p->topic->name, p->id);
            e->offset = p->start;
            fine = sign(s, e);
        }
    }
    if (claim->cnt && fine) {
        count_commit(s, commit(s, claim));
    }
    rd_kafka_topic_partition_list_destroy(claim);
}

int kafka_group_check(struct kafka_source *s, size_t first, struct levee_error *err)
{
    if (!s->config.group || first == s->count) {
        return LEVEE_OK;
    }
    rd_kafka_topic_partition_list_t *list = list_from(s, first);
    int code = ask_patiently(s, list, err);
    if (code == LEVEE_OK) {
        code = check(s, list, err);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

int kafka_group_claim(struct kafka_source *s, size_t first, struct levee_error *err)
{
    if (!s->config.group || first == s->count) {
        return LEVEE_OK;
    }
    rd_kafka_topic_partition_list_t *list = list_from(s, first);
    int code = ask_patiently(s, list, err);
    if (code == LEVEE_OK && (code = check(s, list, err)) == LEVEE_OK) {
        put_name(s, list, first);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

/* ---- the mark ---- */

void kafka_group_offer(struct kafka_source *s)
{
    struct kafka_mark *m = &s->group.mark;
    uint64_t now;

    if (!s->group.running || (now = kafka_now(s)) < s->group.offered_ns + s->config.commit_ns) {
        return;
    }
    pthread_mutex_lock(&s->group.mutex);
    void *next = m->next;
    if (!m->pending && mem_grow(&next, &m->cap, s->count, sizeof *m->next)) {
        m->next = next;
        bool moved = m->count != s->count;
        for (size_t i = 0; i < s->count; i++) {
            moved = moved || m->next[i] != s->partitions[i]->next;
            m->next[i] = s->partitions[i]->next;
        }
        m->count = s->count;
        m->ticket = s->ticket;
        m->lsn = 0;
        m->pending = moved;
        s->group.offered_ns = now;
    }
    pthread_mutex_unlock(&s->group.mutex);
}

/* The mark as a list to commit, if its time has come; NULL: not yet. Mutex held. */
static rd_kafka_topic_partition_list_t *ripe(struct kafka_source *s)
{
    struct kafka_mark *m = &s->group.mark;
    struct wal *wal = s->inlet->ctx->wal;

    if (!m->pending || atomic_load(&s->group.durable_ticket) < m->ticket) {
        return NULL;
    }
    m->lsn = m->lsn ? m->lsn : wal_durable_lsn(wal);
    if (wal_witnessed_lsn(wal) < m->lsn) {
        return NULL;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)m->count);
    for (size_t i = 0; i < m->count; i++) {
        const struct kafka_partition *p = s->partitions[i];
        rd_kafka_topic_partition_list_add(list, p->topic->name, p->id)->offset = m->next[i];
    }
    return list;
}

/* ---- the thread ---- */

/* *ret_done: it is in the group. An error only if the partitions are somebody else's. */
static int commit_mark(struct kafka_source *s, rd_kafka_topic_partition_list_t *list,
                       bool *ret_done, struct levee_error *err)
{
    rd_kafka_topic_partition_list_t *there = rd_kafka_topic_partition_list_copy(list);
    rd_kafka_resp_err_t answer = ask(s, there, COMMITTED_MS);
    int code = answer ? LEVEE_OK : check(s, there, err);
    bool fine = !answer && code == LEVEE_OK;

    rd_kafka_topic_partition_list_destroy(there);
    for (int i = 0; i < list->cnt && fine; i++) {
        fine = sign(s, &list->elems[i]);
    }
    if (fine) {
        answer = commit(s, list);
    }
    *ret_done = fine && !answer;
    if (code == LEVEE_OK) {
        count_commit(s, answer);
    }
    return code;
}

static bool stop_asked(void *arg)
{
    return atomic_load(&((struct kafka_source *)arg)->stop);
}

static void *run(void *arg)
{
    struct kafka_source *s = arg;
    struct levee_error err = {0};
    int code = LEVEE_OK;

    while (code == LEVEE_OK && !s->io->ops->wait(s->io, stop_asked, s, kafka_now(s) + LOOK_NS)) {
        pthread_mutex_lock(&s->group.mutex);
        rd_kafka_topic_partition_list_t *list = ripe(s);
        pthread_mutex_unlock(&s->group.mutex);
        if (!list) {
            continue;
        }
        bool done = false;
        code = commit_mark(s, list, &done, &err);
        rd_kafka_topic_partition_list_destroy(list);
        pthread_mutex_lock(&s->group.mutex);
        s->group.mark.pending = false;
        s->group.mark.count =
            done ? s->group.mark.count : 0; /* the next one is offered in any case */
        pthread_mutex_unlock(&s->group.mutex);
    }
    if (code && !atomic_load(&s->stop)) {
        levee_inlet_fail(s->inlet, &err, true);
    }
    return NULL;
}

int kafka_group_start(struct kafka_source *s, struct levee_error *err)
{
    if (!s->config.group) {
        return LEVEE_OK;
    }
    int sys = pthread_create(&s->group.thread, NULL, run, s);
    if (sys) {
        return err_sys(err, LEVEE_ETHREAD, sys, "source %s", levee_inlet_uid(s->inlet));
    }
    s->group.running = true;
    return LEVEE_OK;
}

void kafka_group_stop(struct kafka_source *s)
{
    if (s->group.running) {
        (void)pthread_join(s->group.thread, NULL);
        s->group.running = false;
    }
    s->group.mark.pending = false;
    s->group.mark.count = 0;
    s->group.offered_ns = 0;
}
