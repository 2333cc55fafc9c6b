"""The mutations of rules/*.guard: at least one for each rule. Those of the checks in Python are in broken_checks.py."""

from __future__ import annotations

from mutations import add, attribute, drop, each, put, remove, role_statements, trips, with_action

RULE, PAYLOAD = "AWS::IoT::TopicRule", "TopicRulePayload"
KAFKA, CLIENT = PAYLOAD + "/Actions/*/Kafka", PAYLOAD + "/Actions/*/Kafka/ClientProperties"
THINGS, STATEMENTS = "AWS::IoT::Policy", "PolicyDocument/Statement/*"
MSK, BUCKET, GROUP = "AWS::MSK::Cluster", "AWS::S3::Bucket", "AWS::EC2::SecurityGroup"
WORK, SETTINGS = "AWS::Athena::WorkGroup", "WorkGroupConfiguration"
SPARK, STATES, TASK = "AWS::EMRServerless::Application", "AWS::StepFunctions::StateMachine", "AWS::ECS::TaskDefinition"
NOTEBOOK, SERVICE, ALARM = "AWS::SageMaker::NotebookInstance", "AWS::ECS::Service", "AWS::CloudWatch::Alarm"
KEY, LOGS, ROLE, TABLE = "AWS::KMS::Key", "AWS::Logs::LogGroup", "AWS::IAM::Role", "AWS::Glue::Table"
ENDPOINT, RULES = "AWS::EC2::VPCEndpoint", "LifecycleConfiguration/Rules"

interface = lambda endpoint: endpoint.get("VpcEndpointType") == "Interface"
gateway = lambda endpoint: endpoint.get("VpcEndpointType") == "Gateway"
connects = lambda s: "iot:Connect" in s["Action"]
publishes = lambda s: "iot:Publish" in s["Action"]


def thing_statement(chosen, edit):
    """An edit of an IoT policy's statements."""

    def whole(policy):
        for statement in policy["PolicyDocument"]["Statement"]:
            if chosen(statement):
                edit(statement)

    return whole


# ---- iot.guard
trips("iot_rule_name", put(RULE, "RuleName", "vital-signs"), also=("devices_publish_to_the_rule_that_is_there",))
trips("iot_rule_passes_the_payload_on", put(RULE, PAYLOAD + "/Sql", "SELECT *, topic(3) AS device FROM 'iot/device/+'"))
trips("iot_rule_passes_the_payload_on", put(RULE, PAYLOAD + "/AwsIotSqlVersion", "2015-10-08"))
trips("iot_rule_enabled", put(RULE, PAYLOAD + "/RuleDisabled", True))
trips("iot_rule_error_action", drop(RULE, PAYLOAD + "/ErrorAction"))
trips("iot_rule_key_is_the_device", drop(RULE, KAFKA + "/Key"))
trips("iot_rule_key_is_the_device", put(RULE, KAFKA + "/Key", "${topic(4)}"))
trips("iot_rule_logs_in_to_kafka", put(RULE, CLIENT + "/security.protocol", "PLAINTEXT"))
trips("iot_rule_logs_in_to_kafka", put(RULE, CLIENT + "/sasl.scram.password", "hunter2"))
trips("iot_rule_logs_in_to_kafka", put(RULE, CLIENT + "/acks", "0"))
trips("iot_destination_is_complete", put("AWS::IoT::TopicRuleDestination", "VpcProperties/SecurityGroups", []))
trips(
    "iot_policy_without_wildcards",
    put(THINGS, STATEMENTS + "/Resource", ["*"]),
    also=(
        "iot_policy_connects_as_its_thing",
        "iot_policy_publishes_as_its_thing",
        "devices_publish_to_the_rule_that_is_there",
    ),
)
trips(
    "iot_policy_connects_and_publishes_only",
    each(THINGS, lambda p: p["PolicyDocument"]["Statement"][0]["Action"].append("iot:Subscribe"), "may subscribe"),
)
trips(
    "iot_policy_connects_as_its_thing",
    each(THINGS, thing_statement(connects, lambda s: s.pop("Condition", None)), "connects without IsAttached"),
)
trips(
    "iot_policy_connects_as_its_thing",
    each(
        THINGS,
        thing_statement(connects, lambda s: s.update(Resource=["arn:aws:iot:us-east-1:111122223333:client/device_1"])),
        "connects as one name",
    ),
)
trips(
    "iot_policy_publishes_as_its_thing",
    each(
        THINGS,
        thing_statement(
            publishes,
            lambda s: s.update(
                Resource=[r.replace("${iot:Connection.Thing.ThingName}", "device_1") for r in s["Resource"]]
            ),
        ),
        "publishes as one name",
    ),
)

# ---- msk.guard
trips("msk_authentication", put(MSK, "ClientAuthentication/Unauthenticated/Enabled", True))
trips("msk_authentication", put(MSK, "ClientAuthentication/Sasl/Iam/Enabled", False))
trips("msk_tls_only", put(MSK, "EncryptionInfo/EncryptionInTransit/ClientBroker", "TLS_PLAINTEXT"))
trips("msk_own_key", drop(MSK, "EncryptionInfo/EncryptionAtRest"))
trips("msk_broker_logs", put(MSK, "LoggingInfo/BrokerLogs/CloudWatchLogs/Enabled", False))
trips("msk_version_is_alive", put(MSK, "KafkaVersion", "2.8.1"))
trips("msk_small_brokers_run_kafka_3", put(MSK, "KafkaVersion", "4.0.x.kraft"), scenario="demo")
trips(
    "msk_is_private",
    put(MSK, "BrokerNodeGroupInfo/ConnectivityInfo", {"PublicAccess": {"Type": "SERVICE_PROVIDED_EIPS"}}),
)
trips("msk_metrics_of_lag", put(MSK, "EnhancedMonitoring", "NONE"))
trips("msk_topics_are_replicated", put("AWS::MSK::Topic", "ReplicationFactor", 1), also=("topics_survive_a_broker",))
trips("msk_secret_is_associated", remove("AWS::MSK::BatchScramSecret"))
trips("secrets_have_a_key", put("AWS::SecretsManager::Secret", "KmsKeyId", "<Key.Arn> by alias/vitals"))
trips(
    "secrets_have_a_key", put("AWS::SecretsManager::Secret", "SecretString", '{"username":"iot","password":"hunter2"}')
)

# ---- network.guard
OPEN = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "10.0.0.0/16"}
trips(
    "security_groups_are_closed_to_the_world",
    each(
        GROUP,
        lambda g: g.setdefault("SecurityGroupIngress", []).append({**OPEN, "CidrIp": "0.0.0.0/0"}),
        "open to the world",
    ),
)
trips(
    "security_groups_are_closed_to_the_world",
    add({"Type": "AWS::EC2::SecurityGroupIngress", "Properties": {**OPEN, "GroupId": "sg-1", "CidrIpv6": "::/0"}}),
)
trips(
    "security_groups_let_in_needed_ports_only",
    each(GROUP, lambda g: g.setdefault("SecurityGroupIngress", []).append(SSH), "22 is open"),
)
trips(
    "security_groups_let_in_needed_ports_only",
    add({"Type": "AWS::EC2::SecurityGroupIngress", "Properties": {**SSH, "GroupId": "sg-1"}}),
)
trips("security_groups_say_what_they_let_out", drop(GROUP, "SecurityGroupEgress"))
trips(
    "security_groups_say_what_they_let_out",
    put(GROUP, "SecurityGroupEgress", [{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}]),
)
trips("security_groups_say_what_they_are_for", put(GROUP, "GroupDescription", ""))
trips("vpc_has_dns", put("AWS::EC2::VPC", "EnableDnsHostnames", False))
trips("subnets_are_private", put("AWS::EC2::Subnet", "MapPublicIpOnLaunch", True))
trips("endpoints_answer_by_private_dns", put(ENDPOINT, "PrivateDnsEnabled", False, interface))
trips(
    "endpoints_are_of_services_that_take_connections",
    add(
        {
            "Type": ENDPOINT,
            "Properties": {
                "VpcEndpointType": "Interface",
                "ServiceName": "com.amazonaws.us-east-1.kafka",
                "PrivateDnsEnabled": True,
                "SubnetIds": ["<SubnetA>"],
                "SecurityGroupIds": ["sg-1"],
            },
        }
    ),
    also=("endpoints_let_in_443",),
)
trips("s3_endpoint_keeps_its_policy", put(ENDPOINT, "PolicyDocument", {"Statement": []}, gateway))

# ---- storage.guard
logged = lambda bucket: "LoggingConfiguration" in bucket
has = lambda key: lambda rule: key in rule


def lifecycle(edit):
    """An edit of each lifecycle rule of a bucket."""
    return lambda bucket: [edit(rule) for rule in bucket["LifecycleConfiguration"]["Rules"]]


def rule_with(key: str, more: dict):
    """Adds to each lifecycle rule that has a key."""
    return lifecycle(lambda rule: rule.update(more) if key in rule else None)


trips("s3_public_access_is_blocked", put(BUCKET, "PublicAccessBlockConfiguration/BlockPublicPolicy", False))
trips(
    "s3_own_key",
    put(
        BUCKET,
        "BucketEncryption/ServerSideEncryptionConfiguration/*/ServerSideEncryptionByDefault",
        {"SSEAlgorithm": "AES256"},
        logged,
    ),
)
trips(
    "s3_encrypted",
    put(
        BUCKET,
        "BucketEncryption/ServerSideEncryptionConfiguration/*/ServerSideEncryptionByDefault/SSEAlgorithm",
        "none",
        lambda bucket: not logged(bucket),
    ),
)
trips(
    "s3_tls_only",
    drop("AWS::S3::BucketPolicy", STATEMENTS + "/Condition"),
    also=("access_logs_go_to_a_bucket_that_takes_them",),
)
trips(
    "s3_archives_after_180_days",
    each(
        BUCKET,
        lifecycle(lambda r: [t.update(TransitionInDays=30) for t in r.get("Transitions", [])]),
        "archived after 30 days",
    ),
)
trips(
    "s3_archives_after_180_days",
    each(
        BUCKET,
        lifecycle(lambda r: [t.update(StorageClass="GLACIER") for t in r.get("Transitions", [])]),
        "another class",
    ),
)
trips("s3_archived_data_is_versioned", put(BUCKET, "VersioningConfiguration/Status", "Suspended"))
trips(
    "s3_noncurrent_versions_expire",
    each(BUCKET, lifecycle(lambda r: r.pop("NoncurrentVersionExpiration", None)), "old versions stay"),
)
trips(
    "s3_delete_markers_expire",
    each(BUCKET, lifecycle(lambda r: r.pop("ExpiredObjectDeleteMarker", None)), "delete markers stay"),
)
trips(
    "s3_aborted_uploads_expire",
    each(
        BUCKET,
        lambda b: b["LifecycleConfiguration"].update(
            Rules=[r for r in b["LifecycleConfiguration"]["Rules"] if "AbortIncompleteMultipartUpload" not in r]
        ),
        "uploads stay",
    ),
)
trips(
    "s3_aborted_uploads_have_a_rule_of_their_own",
    each(
        BUCKET,
        rule_with("AbortIncompleteMultipartUpload", {"ExpirationInDays": 30}),
        "an expiry in the rule for uploads",
    ),
)

# ---- catalogue.guard
trips("athena_settings_are_enforced", put(WORK, SETTINGS + "/EnforceWorkGroupConfiguration", False))
trips("athena_cuts_off", drop(WORK, SETTINGS + "/BytesScannedCutoffPerQuery"))
trips("athena_engine_3", put(WORK, SETTINGS + "/EngineVersion", {"SelectedEngineVersion": "Athena engine version 2"}))
trips(
    "athena_results_are_encrypted",
    each(
        WORK,
        lambda w: [
            w[SETTINGS].get(where, {}).pop("EncryptionConfiguration", None)
            for where in ("ResultConfiguration", "ManagedQueryResultsConfiguration")
        ],
        "results in the clear",
    ),
)
trips(
    "athena_results_go_to_one_place",
    each(
        WORK,
        lambda w: w[SETTINGS].update(
            ResultConfiguration={"OutputLocation": "s3://results"},
            ManagedQueryResultsConfiguration={"Enabled": True, "EncryptionConfiguration": {"KmsKey": "<Key.Arn>"}},
        ),
        "two places for results",
    ),
)
trips("athena_work_group_can_be_deleted", drop(WORK, "RecursiveDeleteOption"))
trips("glue_names_are_lower_case", put("AWS::Glue::Database", "DatabaseInput/Name", "Vitals"))
trips("glue_names_are_lower_case", put(TABLE, "TableInput/Name", "Vitals-Readings"))
trips("glue_names_are_lower_case", drop("AWS::Glue::Database", "CatalogId"))
trips("glue_tables_are_in_a_catalogue", drop(TABLE, "CatalogId"))
trips("glue_tables_are_parquet", put(TABLE, "TableInput/StorageDescriptor/SerdeInfo/SerializationLibrary", "csv"))

# ---- compute.guard
trips("emr_stops_by_itself", put(SPARK, "AutoStopConfiguration/Enabled", False))
trips("emr_has_a_maximum", drop(SPARK, "MaximumCapacity"))
trips("emr_is_in_the_network", drop(SPARK, "NetworkConfiguration"))
trips("emr_logs_have_a_key", drop(SPARK, "MonitoringConfiguration"))
trips("emr_release", put(SPARK, "ReleaseLabel", "emr-6.6.0"))
trips("states_log_without_data", put(STATES, "LoggingConfiguration/IncludeExecutionData", True))
trips("states_log_without_data", put(STATES, "LoggingConfiguration/Level", "OFF"))
trips("states_are_traced", drop(STATES, "TracingConfiguration"))
trips("schedules_have_a_role", drop("AWS::Scheduler::Schedule", "Target/Arn"))
trips("schedules_have_a_window", drop("AWS::Scheduler::Schedule", "FlexibleTimeWindow"))
trips(
    "scheduled_tasks_have_no_public_address",
    put(
        "AWS::Scheduler::Schedule",
        "Target/EcsParameters/NetworkConfiguration/AwsvpcConfiguration/AssignPublicIp",
        "ENABLED",
        lambda s: "EcsParameters" in s["Target"],
    ),
)
trips("notebooks_are_closed", put(NOTEBOOK, "RootAccess", "Enabled"))
trips("notebooks_are_closed", put(NOTEBOOK, "DirectInternetAccess", "Enabled"))
trips("notebooks_are_closed", drop(NOTEBOOK, "KmsKeyId"))
trips("notebooks_are_in_the_network", drop(NOTEBOOK, "SubnetId"))
trips("services_give_up", drop(SERVICE, "DeploymentConfiguration/DeploymentCircuitBreaker"))
trips(
    "services_have_no_public_address",
    put(SERVICE, "NetworkConfiguration/AwsvpcConfiguration/AssignPublicIp", "ENABLED"),
)
trips("tasks_name_an_image_by_digest", put(TASK, "ContainerDefinitions/*/Image", "public.ecr.aws/vitals:latest"))
trips("tasks_name_their_processor", drop(TASK, "RuntimePlatform"))
trips("tasks_have_logs_and_roles", drop(TASK, "ContainerDefinitions/*/LogConfiguration"))
trips("tasks_carry_no_secret", put(TASK, "ContainerDefinitions/*/Environment", [{"Name": "DB_PASSWORD", "Value": "x"}]))
trips("images_can_be_deleted", drop("AWS::ECR::Repository", "EmptyOnDelete"))

# ---- watching.guard
principal = lambda service: lambda s: service in str(s.get("Principal"))


def key_statement(chosen, edit):
    """An edit of a key policy's statements."""
    return lambda key: [edit(s) for s in key["KeyPolicy"]["Statement"] if chosen(s)]


trips("keys_rotate", put(KEY, "EnableKeyRotation", False))
trips(
    "key_serves_logs_of_ours_only",
    each(KEY, key_statement(principal("logs."), lambda s: s.pop("Condition", None)), "for any log group"),
)
trips(
    "key_lets_alarms_through",
    each(
        KEY, key_statement(principal("cloudwatch."), lambda s: s.update(Action=["kms:Decrypt"])), "alarms can't encrypt"
    ),
)
trips("logs_are_kept_for_a_time", drop(LOGS, "RetentionInDays"))
trips("logs_have_a_key", drop(LOGS, "KmsKeyId"))
TOPIC_POLICY = "AWS::SNS::TopicPolicy"
trips(
    "alarm_topic_takes_from_services_by_tls_only",
    each(
        TOPIC_POLICY,
        lambda p: p["PolicyDocument"].update(
            Statement=[s for s in p["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
        ),
        "without TLS",
    ),
)
trips("alarm_topic_takes_from_services_by_tls_only", put(TOPIC_POLICY, STATEMENTS + "/Principal", "*"))
trips("alarm_topic_is_encrypted", put("AWS::SNS::Topic", "KmsMasterKeyId", "alias/aws/sns"))
trips("alarms_reach_somebody", put(ALARM, "ActionsEnabled", False))
trips(
    "alarms_say_what_silence_means",
    drop(ALARM, "TreatMissingData", lambda a: "Lag" not in a.get("MetricName", "")),
    also=("silence_of_the_pipeline_is_an_alarm",),
)
trips(
    "lag_alarms_bear_silence",
    put(
        ALARM,
        "TreatMissingData",
        "breaching",
        lambda a: "Lag" in a.get("MetricName", "") and a["TreatMissingData"] != "ignore",
    ),
)

# ---- retention.guard
trips("data_keys_and_logs_are_retained", attribute(BUCKET, "DeletionPolicy", "Delete"))
trips("data_keys_and_logs_are_retained", attribute(KEY, "DeletionPolicy", None))
trips("data_keys_and_logs_are_retained", attribute("AWS::MSK::Topic", "DeletionPolicy", None))
trips("data_keys_and_logs_are_not_replaced", attribute(LOGS, "UpdateReplacePolicy", None))
trips("retained_buckets_keep_their_policy", attribute("AWS::S3::BucketPolicy", "DeletionPolicy", None))

# ---- iam.guard
trips(
    "roles_are_taken_by_services_only",
    put(ROLE, "AssumeRolePolicyDocument/Statement/*/Principal/AWS", ["111122223333"]),
)
trips(
    "roles_pass_roles_to_named_services",
    with_action("iam:PassRole", lambda s: s.update(Resource=["*"], Sid=s.get("Sid", "X")), "any role"),
    also=("wildcards_have_a_reason",),
)
trips(
    "roles_allow_by_action_names",
    each(ROLE, lambda r: [s.update(NotAction=["iam:*"]) for s in role_statements(r)[:1]], "everything but"),
)
trips(
    "roles_have_no_managed_administrator",
    each(
        ROLE,
        lambda r: r.setdefault("ManagedPolicyArns", []).append("arn:aws:iam::aws:policy/AdministratorAccess"),
        "administrator",
    ),
)
trips("nobody_gets_a_long_lived_key", add({"Type": "AWS::IAM::AccessKey"}))
trips("service_linked_roles_are_left_to_the_program", add({"Type": "AWS::IAM::ServiceLinkedRole"}))
