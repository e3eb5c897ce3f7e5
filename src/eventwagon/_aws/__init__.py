"""What the SQS broker, the DynamoDB registry and the AWS orchestrator share: where, clients, errors, the table.
Private."""
