"""The decoder: from the bytes that the relay teed to records of calls for the agent.

Its own process, so that neither its speed nor its bugs can touch a prediction.
"""
