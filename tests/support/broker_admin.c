/*
 * What an operator does to a broker that runs: other settings of a topic, rights taken away, a look
 * at a group's offsets.
 */
#include <stdio.h>
#include <string.h>

#include "tests/support/broker_internal.h"

struct session {
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    rd_kafka_AdminOptions_t *options;
};

static enum broker_code begin(struct broker *b, rd_kafka_admin_op_t op, struct session *ret)
{
    char text[256];

    ret->rk = broker_client(b, RD_KAFKA_CONSUMER, rd_kafka_conf_new(), NULL);
    if (!ret->rk) {
        return b->failure.code;
    }
    ret->queue = rd_kafka_queue_new(ret->rk);
    ret->options = rd_kafka_AdminOptions_new(ret->rk, op);
    MUST(!rd_kafka_AdminOptions_set_request_timeout(ret->options, BROKER_PATIENCE_MS, text,
                                                    sizeof text));
    return BROKER_OK;
}

/* The answer to what was asked; of its parts only whether each went well. */
static enum broker_code finish(struct broker *b, struct session *s, const char *doing)
{
    rd_kafka_event_t *ev = rd_kafka_queue_poll(s->queue, BROKER_PATIENCE_MS + 5000);
    enum broker_code code = BROKER_OK;
    size_t n = 0;

    if (!ev || rd_kafka_event_error(ev)) {
        code = broker_refused(b, ev ? rd_kafka_event_error(ev) : RD_KAFKA_RESP_ERR__TIMED_OUT,
                              doing, ev ? rd_kafka_event_error_string(ev) : NULL);
    } else if (rd_kafka_event_type(ev) == RD_KAFKA_EVENT_ALTERCONFIGS_RESULT) {
        const rd_kafka_ConfigResource_t **r =
            rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(ev), &n);
        rd_kafka_resp_err_t err = n == 1 ? rd_kafka_ConfigResource_error(r[0]) : 0;
        code = err ? broker_refused(b, err, doing, rd_kafka_ConfigResource_error_string(r[0]))
                   : BROKER_OK;
    } else if (rd_kafka_event_type(ev) == RD_KAFKA_EVENT_CREATEACLS_RESULT) {
        const rd_kafka_acl_result_t **r =
            rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(ev), &n);
        const rd_kafka_error_t *err = n == 1 ? rd_kafka_acl_result_error(r[0]) : NULL;
        code = err ? broker_refused(b, rd_kafka_error_code(err), doing, rd_kafka_error_string(err))
                   : BROKER_OK;
    }
    if (ev) {
        rd_kafka_event_destroy(ev);
    }
    rd_kafka_AdminOptions_destroy(s->options);
    rd_kafka_queue_destroy(s->queue);
    rd_kafka_destroy(s->rk);
    return code;
}

enum broker_code broker_topic_alter(struct broker *b, const char *topic,
                                    const char *const *properties)
{
    rd_kafka_ConfigResource_t *wanted = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    struct session s = {0};
    enum broker_code code = begin(b, RD_KAFKA_ADMIN_OP_ALTERCONFIGS, &s);

    if (code == BROKER_OK) {
        for (; properties && *properties; properties++) {
            const char *eq = strchr(*properties, '=');
            char name[128];
            MUST(eq);
            (void)snprintf(name, sizeof name, "%.*s", (int)(eq - *properties), *properties);
            (void)rd_kafka_ConfigResource_set_config(wanted, name, eq + 1);
        }
        rd_kafka_AlterConfigs(s.rk, &wanted, 1, s.options, s.queue);
        code = finish(b, &s, "alter a topic");
    }
    rd_kafka_ConfigResource_destroy(wanted);
    return code;
}

enum broker_code broker_deny(struct broker *b, rd_kafka_ResourceType_t type, const char *name,
                             rd_kafka_AclOperation_t operation)
{
    char text[256];
    struct session s = {0};
    enum broker_code code = begin(b, RD_KAFKA_ADMIN_OP_CREATEACLS, &s);
    rd_kafka_AclBinding_t *acl = rd_kafka_AclBinding_new(
        type, name, RD_KAFKA_RESOURCE_PATTERN_LITERAL, "User:ANONYMOUS", "*", operation,
        RD_KAFKA_ACL_PERMISSION_TYPE_DENY, text, sizeof text);

    MUST(acl);
    if (code == BROKER_OK) {
        rd_kafka_CreateAcls(s.rk, &acl, 1, s.options, s.queue);
        code = finish(b, &s, "take a right away");
    }
    rd_kafka_AclBinding_destroy(acl);
    return code;
}

enum broker_code broker_allow_all(struct broker *b)
{
    char text[256];
    struct session s = {0};
    enum broker_code code = begin(b, RD_KAFKA_ADMIN_OP_DELETEACLS, &s);
    rd_kafka_AclBindingFilter_t *all = rd_kafka_AclBindingFilter_new(
        RD_KAFKA_RESOURCE_ANY, NULL, RD_KAFKA_RESOURCE_PATTERN_ANY, NULL, NULL,
        RD_KAFKA_ACL_OPERATION_ANY, RD_KAFKA_ACL_PERMISSION_TYPE_ANY, text, sizeof text);

    MUST(all);
    if (code == BROKER_OK) {
        rd_kafka_DeleteAcls(s.rk, &all, 1, s.options, s.queue);
        code = finish(b, &s, "give the rights back");
    }
    rd_kafka_AclBinding_destroy(all);
    return code;
}

enum broker_code broker_committed(struct broker *b, const char *group, const char *topic,
                                  int32_t partition, int64_t *ret_offset)
{
    char property[300];
    const char *const properties[] = {property, NULL};

    (void)snprintf(property, sizeof property, "group.id=%s", group);
    rd_kafka_t *rk = broker_client(b, RD_KAFKA_CONSUMER, rd_kafka_conf_new(), properties);
    if (!rk) {
        return b->failure.code;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    rd_kafka_resp_err_t rc = rd_kafka_committed(rk, list, BROKER_PATIENCE_MS);
    rc = rc ? rc : list->elems[0].err;
    int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
    if (rc) {
        return broker_refused(b, rc, "ask for an offset", NULL);
    }
    *ret_offset = offset < 0 ? -1 : offset;
    return BROKER_OK;
}
