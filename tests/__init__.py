import os

# Before anything imports gRPC: its fork handlers now and then crash what a test starts under another account.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
